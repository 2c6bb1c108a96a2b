"""The tables of the kernels, term by term, against what the codes decode to."""

from __future__ import annotations

import math

import pytest
import torch
from encode_cases import key_coder

from nexusquant.kernels.tiles.coder_tables import coder_tables, table_bytes
from nexusquant.kernels.tiles.fragments import WHOLE, key_fragments, phases_per_token, value_rows
from nexusquant.kernels.tiles.terms import (
    Digit,
    KeyShape,
    ValueShape,
    digit_units,
    key_slots,
    value_terms,
)
from nexusquant.lattice import E8Quantizer
from nexusquant.lattice.packing import CodeLayout

WIDTHS = (
    (2,) * 8,
    (5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0),
    (8, 7, 6, 1),
    (3,) * 16,
    (1,) * 10,
    (2,) * 5 + (1,) * 3,
)


def bits_of(codes: torch.Tensor, term: Digit, num_words: int) -> torch.Tensor:
    """What one of a term is: a digit, a bit or a parity. [N], int32."""
    codes = codes.int()
    first = 2 * term.place if term.is_word else 2 * num_words + term.place
    if first >= (2 * num_words if term.is_word else codes.shape[1]):
        return torch.zeros_like(codes[:, 0])
    field = codes[:, first]
    if term.is_word:
        field = field | codes[:, first + 1] << 8
    if term.index is None:
        lowest = field & 0x5555 if term.is_word else field
        return torch.tensor([int(bits).bit_count() % 2 for bits in lowest])
    return field >> 2 * term.index & 3 if term.is_word else field >> term.index & 1


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
    held = [*tables.fragments, tables.mean, tables.columns, tables.speeds, tables.num_done]
    assert table_bytes(widths, num_heads) == pytest.approx(sum(t.nbytes for t in held), rel=0.02)


def whole_digits(coder: E8Quantizer, codes: torch.Tensor) -> torch.Tensor:
    """What a row's registers hold: [N, terms], as `tiles.cu` fills them."""
    shape, layout = KeyShape.of(coder.widths), CodeLayout.of(coder.widths)
    digits = []
    for slot in key_slots(shape):
        for term in slot:
            if term is None:
                digits.append(torch.zeros(codes.shape[0], dtype=torch.int32))
                continue
            size = term.size
            places = layout.words if term.is_word else layout.singles
            if term.index is not None and term.place < len(places):
                place = places[term.place]
                size = 4 ** place[1] if term.is_word else 2 ** (coder.widths[place] - 1)
            digits.append(size * bits_of(codes, term, shape.words))
    return torch.stack(digits, dim=1)


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
    digits = whole_digits(coder, packed.codes)
    assert int(digits.min()) >= 0 and int(digits.max()) < 256
    sums = (digits.double() @ rows.double() + WHOLE).float()
    factor, addend = tables.columns[0].unflatten(-1, (2, 2)).permute(2, 1, 0).flatten(1)
    actual = (sums.double() * factor + addend) * tables.sizes
    assert half % 8 == 0
    rows = coder.basis[: coder.num_coded].double() * coder.column_units.double()
    torch.testing.assert_close(actual, points @ rows, rtol=0, atol=1e-9)


def test_digits_count_what_their_loads_say() -> None:
    widths = (8, 7, 6, 1, 0, 0, 0, 0)
    units = digit_units(widths)
    # words of group 0 in four digits, of groups 1 and 2 in three each; bytes of groups 1 and 3
    assert units[0].tolist() == [[1, 4], [16, 64], [1, 4], [16, 1]]
    assert units[1].tolist() == [[4, 16], [1, 1], [4, 16], [1, 1]]
    assert [hex(units[2, t, 0]) for t in range(2)] == ["0x1010140", "0x1010101"]
    assert KeyShape.of(widths).wide == 2
    assert KeyShape.of((2,) * 8).wide == 0


def test_columns_that_do_not_exist_hold_nothing() -> None:
    coder = key_coder(1, 64, 2)
    columns = torch.arange(64, dtype=torch.int32)
    columns[5] = -1
    tables = key_fragments(coder, columns)
    # column 5 of the left half: chunk 0, lanes 20 to 23, the first eight numbers
    assert not tables.basis[0, 0, :, 20:24, :8].any()
    assert not tables.columns[0, 5, :2].any()
    assert tables.basis[0, 0, :, 20:24, 8:].any()


def test_rows_of_values_rebuild_a_weighted_sum() -> None:
    coder = E8Quantizer.create(64, 2.25, 0, "cpu")
    packed = coder.encode(torch.randn(30, 64, generator=torch.Generator().manual_seed(2)))
    points, _ = coder.decode_points(packed, torch.float32)
    weights = torch.rand(30)
    shape = ValueShape.of(coder.widths)
    digits = []
    for term in value_terms(shape):
        size, index = 1, 0 if term is None else term.index
        if index is not None:
            size = 4 ** (index % 4) if term is None or term.is_word else 2**index
        digits.append(size * bits_of(packed.codes, term or Digit(True, 99, 0), shape.words))
    rows, offset = value_rows(coder)
    actual = weights @ torch.stack(digits, dim=1).float() @ rows + weights.sum() * offset
    torch.testing.assert_close(actual, weights @ points @ coder.decoder, rtol=1e-4, atol=1e-4)


def test_phases_stay_exact_far_into_a_text() -> None:
    frequencies = 10_000.0 ** -(torch.arange(32) / 32)
    steps = phases_per_token(frequencies).long() % 2**32
    position = 131_071
    turned = (steps * position % 2**32).double() * (2 * math.pi / 2**32)
    expected = (frequencies.double() * position) % (2 * math.pi)
    apart = (turned - expected + math.pi) % (2 * math.pi) - math.pi
    assert float(apart.abs().max()) < 2e-4
