"""The tables of the kernels, term by term, against what the codes decode to."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from encode_cases import key_coder

from nexusquant.kernels.decode_attention import LARGEST_DIM
from nexusquant.kernels.tiles.coder_tables import coder_tables, table_bytes
from nexusquant.kernels.tiles.fragments import (
    WHOLE,
    key_fragments,
    phases_per_token,
    value_tables,
)
from nexusquant.kernels.tiles.terms import (
    CodeShape,
    Term,
    key_places,
    key_terms,
    value_places,
    value_terms,
)
from nexusquant.lattice import MOST_KEY_BITS, E8Quantizer

WIDTHS = (
    (2,) * 8,
    (5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0),
    (7, 7, 6, 1),
    (3,) * 16,
    (1,) * 10,
    (2,) * 5 + (1,) * 3,
)


def bit(number: int, place: int) -> int:
    return number >> place & 1


def byte(number: int, place: int) -> int:
    return number >> 8 * place & 255


def word_at(codes: torch.Tensor, place: int) -> torch.Tensor:
    return codes[:, place].int() | codes[:, place + 1].int() << 8


def group_fields(codes: torch.Tensor, words: list[int], single: int | None, unit: int):
    """Fields of a group that is found at these places, and the parity of their lowest bits."""
    fields = torch.zeros(codes.shape[0], 8, dtype=torch.int32)
    for digit, place in enumerate(words):
        word = word_at(codes, place)
        fields += torch.stack([(word >> 2 * i & 3) << 2 * digit for i in range(8)], dim=1)
    if single is not None:
        bits = codes[:, single].int()
        fields += torch.stack([(bits >> i & 1) * unit for i in range(8)], dim=1)
    return fields, (fields & 1).sum(dim=1) % 2


def key_groups(codes: torch.Tensor, widths: tuple[int, ...]) -> list[tuple]:
    """What `split_vector` finds of each group."""
    groups = []
    for lanes in key_places(widths).tolist():
        for first, second, rest, unit in lanes:
            for n, words in enumerate((first, second)):
                there = [byte(words, d) for d in range(4) if bit(rest, 16 + 4 * n + d)]
                # in half steps
                own = byte(unit, 2 * n) // 2
                assert byte(unit, 2 * n) == byte(unit, 2 * n + 1) == 2 * own
                assert bit(rest, 24 + n) == (own == 1)
                groups.append(group_fields(codes, there, byte(rest, n) if own else None, own))
    return groups


def value_groups(codes: torch.Tensor, widths: tuple[int, ...]) -> list[tuple]:
    """What `read_pair` finds of each group."""
    groups = []
    for place in value_places(widths).flatten().tolist():
        there = byte(place, 3)
        words = [byte(place, d) for d in range(2) if bit(there, d)]
        assert not (bit(there, 2) and bit(there, 3))
        unit = 4 ** len(words) if bit(there, 2) else 1
        has_single = bit(there, 2) or bit(there, 3)
        groups.append(group_fields(codes, words, byte(place, 2) if has_single else None, unit))
    return groups


def of_terms(groups: list[tuple], terms: list[Term | None]) -> torch.Tensor:
    """What each term is. [N, terms], int32."""
    columns = []
    for term in terms:
        if term is None:
            columns.append(torch.zeros_like(groups[0][1]))
            continue
        fields, parity = groups[term.group]
        columns.append(term.size * (parity if term.index is None else fields[:, term.index]))
    return torch.stack(columns, dim=1)


def coder_of(widths: tuple[int, ...]) -> E8Quantizer:
    dim = 8 * len(widths)
    rows = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0))
    return E8Quantizer.of_rows(widths, rows, torch.ones(len(widths)))


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_bytes_of_the_tables_are_told_without_making_them(widths: tuple[int, ...]) -> None:
    num_heads, dim = 8, 8 * len(widths)
    rows = torch.randn(num_heads, dim, dim, generator=torch.Generator().manual_seed(0))
    gains, mean = torch.ones(num_heads, len(widths)), torch.zeros(num_heads, 1, dim)
    tables = coder_tables(E8Quantizer.of_rows(widths, rows, gains, mean), num_heads)
    held = [*tables.fragments, tables.mean, tables.columns, tables.speeds]
    assert table_bytes(widths, num_heads) == pytest.approx(sum(t.nbytes for t in held), rel=0.02)


def half_steps(coder: E8Quantizer, codes: torch.Tensor) -> torch.Tensor:
    """What a row's registers hold: [N, terms], as `tiles.cu` fills them."""
    groups = []
    for fields, parity in key_groups(codes, coder.widths):
        shift = parity.unsqueeze(1).expand(-1, 8).clone()
        shift[:, 0] = 1 - parity
        groups.append((2 * fields + shift, parity))
    terms = key_terms(coder.widths)
    held = of_terms(groups, terms)
    # groups that are not there leave something behind too
    held[:, [term is None for term in terms]] = 1
    return held


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_whole_numbers_rebuild_vectors_without_rounding(widths: tuple[int, ...]) -> None:
    coder = coder_of(widths)
    packed = coder.encode(torch.randn(50, coder.dim, generator=torch.Generator().manual_seed(1)))
    points, _ = coder.decode_points(packed, torch.float64)
    half = coder.dim // 2
    tables = key_fragments(coder, torch.arange(coder.dim, dtype=torch.int32))
    # [chunk, tile, g, t, half, slot, byte] to [terms, columns]
    rows = (
        tables.basis[0].unflatten(2, (8, 4)).unflatten(-1, (2, 2, 4)).permute(1, 5, 3, 6, 4, 0, 2)
    )
    rows = rows.reshape(-1, coder.dim)
    digits = half_steps(coder, packed.codes)
    assert int(digits.min()) >= 0 and int(digits.max()) < 256
    sums = (digits.double() @ rows.double() + WHOLE).float()
    factor, addend = tables.columns[0].unflatten(-1, (2, 2)).permute(2, 1, 0).flatten(1)
    actual = (sums.double() * factor + addend) * tables.sizes
    assert half % 8 == 0
    rows = coder.basis[: coder.num_coded].double() * coder.column_units.double()
    torch.testing.assert_close(actual, points @ rows, rtol=0, atol=1e-9)


def test_a_row_of_groups_is_read_as_far_as_its_widest_goes() -> None:
    # words of groups 0 to 2 in three digits each; single bits of groups 0, 1 and 3
    assert CodeShape.of((7, 7, 6, 1, 0, 0, 0, 0)) == (1, 0x3, 0b1)
    assert CodeShape.of((5,) + (2,) * 7 + (2, 2, 1, 1)) == (2, 0x12, 0b11)
    assert CodeShape.of((2,) * 16) == (2, 0x11, 0b00)


def test_columns_that_do_not_exist_hold_nothing() -> None:
    coder = key_coder(1, 64, 2)
    columns = torch.arange(64, dtype=torch.int32)
    columns[5] = -1
    tables = key_fragments(coder, columns)
    # column 5 of the left half: chunk 0, lanes 20 to 23, the first eight numbers
    assert not tables.basis[0, 0, :, 20:24, :8].any()
    assert not tables.columns[0, 5, :2].any()
    assert tables.basis[0, 0, :, 20:24, 8:].any()


@pytest.mark.parametrize("bits", [1, 1.75, 2, 2.25, 2.75, 3.5, 4])
@pytest.mark.parametrize("dim", [64, 80, 128])
def test_rows_of_values_rebuild_a_weighted_sum(bits: float, dim: int) -> None:
    coder = E8Quantizer.create(dim, bits, 0, "cpu")
    packed = coder.encode(torch.randn(30, dim, generator=torch.Generator().manual_seed(2)))
    points, _ = coder.decode_points(packed, torch.float32)
    weights = torch.rand(30)
    sums = of_terms(value_groups(packed.codes, coder.widths), value_terms(coder.widths))
    tables = value_tables(coder)
    assert tables.rows.shape[0] % 16 == 0
    weights = weights.double()
    actual = weights @ sums.double() @ tables.rows.double() + weights.sum() * tables.offset
    expected = weights @ points.double() @ coder.decoder.double()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_tables_of_values_are_made_once_and_go_with_their_coder() -> None:
    coders = [E8Quantizer.create(64, bits, 0, "cpu") for bits in (1, 1.5, 2, 2.5, 3, 3.5, 4)]
    places = [value_tables(coder).rows.data_ptr() for coder in coders]
    assert [value_tables(coder).rows.data_ptr() for coder in coders] == places
    rows = weakref.ref(value_tables(coders[0]).rows)
    del coders[0]
    gc.collect()
    assert rows() is None


def test_keys_of_more_than_seven_bits_have_no_places() -> None:
    with pytest.raises(ValueError, match="at most 7 bits"):
        key_places((8, 4, 4, 4))


def test_no_sum_is_larger_than_a_float_holds_on_top_of_another() -> None:
    assert LARGEST_DIM * (2 ** (MOST_KEY_BITS + 1) - 1) * 127 < 2**22
    assert torch.tensor(WHOLE, dtype=torch.float32).view(torch.int32) + 2**22 - 1 == (
        torch.tensor(WHOLE + 2**22 - 1, dtype=torch.float32).view(torch.int32)
    )


def test_values_of_more_than_four_bits_have_no_places() -> None:
    with pytest.raises(ValueError, match="at most 4 bits"):
        value_places((5, 4, 4, 4, 4, 4, 4, 4))


def test_phases_stay_exact_far_into_a_text() -> None:
    frequencies = 10_000.0 ** -(torch.arange(32) / 32)
    steps = phases_per_token(frequencies).long() % 2**32
    position = 131_071
    turned = (steps * position % 2**32).double() * (2 * math.pi / 2**32)
    expected = (frequencies.double() * position) % (2 * math.pi)
    apart = (turned - expected + math.pi) % (2 * math.pi) - math.pi
    assert float(apart.abs().max()) < 2e-4
