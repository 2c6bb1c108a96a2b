"""When the decode kernel is used, and that what it gives is joined with exact vectors."""

from __future__ import annotations

import pytest
import torch
from decode_cases import CASES
from packed_cases import make_case

from nexusquant.kernels import decode_attention, decode_problem, packed_attention
from nexusquant.kernels.decode_attention import reference
from nexusquant.kernels.decode_attention.digit_tables import digit_tables, value_rows
from nexusquant.lattice import E8Quantizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_there_is_no_kernel_for_a_cpu():
    assert "cpu" in decode_problem(CPU, 64)


@pytest.mark.parametrize(
    ("dim", "capability", "reason"),
    [(256, (9, 0), "256 values"), (64, (7, 5), "Ampere"), (128, (8, 0), None)],
)
def test_large_vectors_and_old_cards_are_served_by_torch(monkeypatch, dim, capability, reason):
    monkeypatch.setattr(decode_attention, "triton_problem", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    problem = decode_problem(GPU, dim)
    assert problem is None if reason is None else reason in problem


def test_sums_of_the_packed_part_can_be_given_instead_of_the_part():
    case = make_case([70, 33], groups=2)
    whole = packed_attention(case.query, case.view, case.exact_keys, case.exact_values, 0.3)
    rows = (case.query.float() * 0.3).reshape(2, -1, case.query.shape[-1])
    state = reference._RunningSoftmax(2, rows.shape[1], case.exact_values.shape[-1], CPU)
    reference._add_packed(state, rows, case.view, None)
    sums = reference.PackedSums(state.maximum[..., 0], state.total[..., 0], state.weighted)
    exact = (case.exact_keys, case.exact_values, 0.3, None)
    joined = reference.packed_attention(case.query, None, *exact, sums)
    torch.testing.assert_close(joined, whole)


@pytest.mark.parametrize("bits", [1, 1.5, 2, 3, 4, 5, 8])
def test_digits_times_their_rows_are_the_decoded_vectors(bits):
    coder = E8Quantizer.create(64, bits, 0, "cpu")
    vectors = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
    packed = coder.encode(vectors)
    rows, offset = value_rows(coder)
    tables = digit_tables(coder.widths, CPU)
    _, scales = coder.decode_points(packed, torch.float32)
    digits = kernel_digits(packed.codes, tables)
    decoded = (digits @ rows + offset) * scales.unsqueeze(-1)
    torch.testing.assert_close(decoded, coder.decode(packed, torch.float32), rtol=1e-4, atol=1e-4)


def kernel_digits(codes, tables):
    """What the kernel sums for vectors of weight 1, in the order in which it stores sums."""
    count = codes.shape[0]
    words = torch.zeros(count, 8, tables.words)
    singles = torch.zeros(count, 8, tables.singles)
    for i in range(8):
        for word in range(tables.num_words):
            value = codes[:, 2 * word].int() | (codes[:, 2 * word + 1].int() << 8)
            words[:, i, word] = (value >> 2 * i & 3) * 4.0 ** (i if i < 5 else i - 3)
        for single in range(tables.num_singles):
            byte = codes[:, 2 * tables.num_words + single].int()
            singles[:, i, single] = (byte >> i & 1) * 2.0**i
    units = torch.tensor([4.0 ** (i if i < 5 else i - 3) for i in range(8)])[:, None]
    parts = [words.flatten(1), (words / units).sum(dim=1) % 2]
    if tables.num_singles:
        odd = (singles / 2.0 ** torch.arange(8)[:, None]).sum(dim=1) % 2
        missing = max(0, 16 - odd.shape[1])
        parts += [singles.flatten(1), torch.nn.functional.pad(odd, (0, missing))]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_of_the_kernel_are_such_as_it_is_used_for(case, monkeypatch):
    monkeypatch.setattr(decode_attention, "triton_problem", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert decode_attention._has_kernel(case.query().unsqueeze(1), case.view())
