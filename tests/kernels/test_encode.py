from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from encode_cases import bare, key_coder, keys_of, rotary_of

from nexusquant.kernels import encode, encode_into
from nexusquant.lattice import PackedVectors, Pairing

PAIRINGS = [Pairing.NONE, Pairing.HALVES, Pairing.NEIGHBOURS]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_codes_on_the_cpu_are_those_of_the_quantizer_without_the_rotation(pairing):
    coder, rotary, positions = key_coder(2, 64), rotary_of(64), torch.arange(500, 570)
    vectors = keys_of(coder, 70)
    actual = encode(coder, vectors, positions, rotary, pairing)
    expected = coder.encode(bare(vectors, positions, rotary, pairing), positions)
    assert torch.equal(actual.codes, expected.codes)
    assert torch.equal(actual.scales, expected.scales)


def test_vectors_go_to_their_slots_and_those_without_one_go_nowhere():
    coder, positions = key_coder(2, 64), torch.arange(50)
    vectors = keys_of(coder, 50)
    codes = torch.full((3, 64, coder.bytes_per_vector - 1), 0xAB, dtype=torch.uint8)
    pool = PackedVectors(codes, codes[..., 0].clone())
    slots = torch.randperm(3 * 64)[:100].reshape(2, 50)
    slots[:, ::7] = -1
    encode_into(pool, slots, coder, vectors, positions)
    expected, is_free = encode(coder, vectors, positions), torch.ones(3 * 64, dtype=torch.bool)
    for head, row in enumerate(slots.tolist()):
        for index, slot in enumerate(row):
            if slot >= 0:
                is_free[slot] = False
                page, place = divmod(slot, 64)
                assert torch.equal(pool.codes[page, place], expected.codes[head, index])
                assert pool.scales[page, place] == expected.scales[head, index]
    assert (pool.codes.flatten(0, 1)[is_free] == 0xAB).all()
    assert (pool.scales.flatten()[is_free] == 0xAB).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    coder = key_coder(2, 64)
    vectors = keys_of(coder, 5)
    vectors[1, 4, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(coder, vectors)


@pytest.mark.parametrize(("problem", "is_used"), [(None, True), ("the package is missing", False)])
def test_the_kernel_is_used_where_triton_works_and_nowhere_else(monkeypatch, problem, is_used):
    calls = []
    launcher = SimpleNamespace(
        encode=lambda *given: calls.append("encode"),
        encode_into=lambda *given: calls.append("encode_into"),
    )
    package = importlib.import_module("nexusquant.kernels.encode")
    monkeypatch.setattr(package, "triton_problem", lambda device: problem)
    monkeypatch.setattr(package, "triton_launch", launcher, raising=False)
    coder = key_coder(1, 64)
    codes = torch.zeros(1, 64, coder.bytes_per_vector - 1, dtype=torch.uint8)
    pool = PackedVectors(codes, codes[..., 0].clone())
    encode(coder, keys_of(coder, 3))
    encode_into(pool, torch.arange(3)[None], coder, keys_of(coder, 3))
    assert calls == (["encode", "encode_into"] if is_used else [])
