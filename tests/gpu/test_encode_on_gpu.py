"""The encode kernel on a real GPU: the reference's codes, and not a byte elsewhere."""

from __future__ import annotations

import pytest
import torch
from encode_cases import assert_same_codes, bare, gaussian, key_coder, keys_of, rotary_of

from nexusquant.kernels import encode, encode_into, triton_problem
from nexusquant.kernels.encode import reference
from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing, Rotary

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda")
POISON = 0xAB
# sums on tensor cores are in another order than torch's
TIES, JUMPS = 0.01, 0.002


@pytest.fixture(autouse=True)
def kernels_are_used() -> None:
    assert triton_problem(GPU) is None


def assert_equals_reference(
    coder: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
) -> None:
    arguments = (coder, vectors, positions, rotary, pairing)
    actual, expected = encode(*arguments), reference.encode(*arguments)
    assert actual.codes.shape == expected.codes.shape
    exact = bare(vectors, positions, rotary, pairing)
    # of few vectors, one may be at a tie
    least = 1 / max(1, actual.scales.numel())
    limits = (max(TIES, least), max(JUMPS, least))
    assert_same_codes(coder, exact, positions, actual, expected, *limits)


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("bits", [1, 1.5, 2, 5, 8])
def test_values_are_coded_as_by_the_reference(dim: int, bits: float) -> None:
    coder = E8Quantizer.create(dim, bits, 0, GPU)
    vectors = gaussian(3, 4097, dim).to(GPU, torch.bfloat16)
    assert_equals_reference(coder, vectors, torch.arange(4097, device=GPU))


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keys_are_coded_as_by_the_reference(dim: int, bits: float, dtype: torch.dtype) -> None:
    coder = key_coder(3, dim, bits, "cuda")
    vectors = keys_of(coder, 2049).to(GPU, dtype)
    assert_equals_reference(coder, vectors, torch.arange(2049, device=GPU))


@pytest.mark.parametrize("num_vectors", [1, 7, 63, 64, 65, 129, 1000])
def test_any_number_of_vectors(num_vectors: int) -> None:
    coder = key_coder(2, 128, 2, "cuda")
    vectors = keys_of(coder, num_vectors).to(GPU)
    assert_equals_reference(coder, vectors, torch.arange(num_vectors, device=GPU))


@pytest.mark.parametrize("pairing", [Pairing.HALVES, Pairing.NEIGHBOURS])
@pytest.mark.parametrize("num_segments", [1, 3])
@pytest.mark.parametrize("rotary_dim", [32, 128])
def test_the_rotation_is_taken_off_at_positions_of_each_head(
    pairing: Pairing, num_segments: int, rotary_dim: int
) -> None:
    coder, rotary = key_coder(2, 128), rotary_of(rotary_dim, 1.2, num_segments)
    positions = torch.stack([torch.arange(777), torch.arange(120_000, 120_777)])
    turned = rotary.put_on(keys_of(coder, 777), positions, pairing).to(GPU)
    on_gpu = key_coder(2, 128, 2, "cuda")
    assert_equals_reference(on_gpu, turned, positions.to(GPU), rotary, pairing)


def test_strided_vectors_are_coded_like_contiguous_ones() -> None:
    coder = key_coder(3, 128, 2, "cuda")
    tokens = torch.zeros(1001, 3, 300, device=GPU)
    tokens[:, :, 5:261:2] = keys_of(coder, 1001).transpose(0, 1).to(GPU)
    vectors = tokens.transpose(0, 1)[:, :, 5:261:2]
    assert_equals_reference(coder, vectors, torch.arange(1001, device=GPU))
    as_the_model_makes_them = vectors.contiguous().transpose(0, 1).contiguous().transpose(0, 1)
    assert_equals_reference(coder, as_the_model_makes_them, None)


def test_slots_that_are_named_are_written_and_no_others() -> None:
    coder, num_pages = key_coder(2, 128, 2, "cuda"), 40
    vectors, positions = keys_of(coder, 1001).to(GPU), torch.arange(1001, device=GPU)
    slots = torch.randperm(num_pages * 64, device=GPU)[: 2 * 1001].reshape(2, 1001)
    slots[:, 3::7] = -1
    num_bytes = coder.bytes_per_vector - 1
    codes = torch.full((num_pages, 64, num_bytes), POISON, dtype=torch.uint8, device=GPU)
    pool = PackedVectors(codes, codes[..., 0].clone())
    encode_into(pool, slots, coder, vectors, positions)
    expected = encode(coder, vectors, positions)
    is_taken = slots >= 0
    assert torch.equal(pool.codes.flatten(0, 1)[slots[is_taken]], expected.codes[is_taken])
    assert torch.equal(pool.scales.flatten()[slots[is_taken]], expected.scales[is_taken])
    is_free = torch.ones(num_pages * 64, dtype=torch.bool, device=GPU)
    is_free[slots[is_taken]] = False
    assert bool((pool.codes.flatten(0, 1)[is_free] == POISON).all())
    assert bool((pool.scales.flatten()[is_free] == POISON).all())


def test_every_byte_of_the_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    coder = key_coder(2, 80, 2, "cuda")
    vectors = keys_of(coder, 333).to(GPU)
    results = []
    new_empty = torch.Tensor.new_empty
    for poison in (0x00, 0xFF):
        monkeypatch.setattr(
            torch.Tensor,
            "new_empty",
            lambda *sizes, poison=poison, **kind: new_empty(*sizes, **kind).fill_(poison),
        )
        results.append(encode(coder, vectors))
    assert torch.equal(results[0].codes, results[1].codes)
    assert torch.equal(results[0].scales, results[1].scales)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = gaussian(2, 3000, 128).to(GPU)
    vectors[1, 2999, 127] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(E8Quantizer.create(128, 2, 0, GPU), vectors)


@pytest.mark.parametrize("size", [0, 1e-30, 1e-5, 1e4, 1e37])
def test_extreme_sizes_are_coded_as_by_the_reference(size: float) -> None:
    vectors = gaussian(1, 100, 128)
    vectors[:, 3:90] *= size
    assert_equals_reference(E8Quantizer.create(128, 2, 0, GPU), vectors.to(GPU), None)
