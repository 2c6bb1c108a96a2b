from __future__ import annotations

import pytest
import torch
from encode_cases import (
    assert_same_codes,
    bare,
    gaussian,
    key_coder,
    keys_of,
    rotary_of,
)

from nexusquant.config import CODE_BITS
from nexusquant.kernels.encode import reference, triton_launch
from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing

# the interpreter computes the logarithm of rows that are not there
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DIMS_AND_BITS = ((64, 1), (80, 1.5), (96, 2), (128, 4), (256, 2))


def assert_equals_reference(coder, vectors, positions, rotary=None, pairing=Pairing.NONE):
    arguments = (coder, vectors, positions, rotary, pairing)
    actual, expected = triton_launch.encode(*arguments), reference.encode(*arguments)
    assert actual.codes.shape == expected.codes.shape
    exact = bare(vectors, positions, rotary, pairing)
    assert_same_codes(coder, exact, positions, actual, expected)


@pytest.mark.parametrize(("dim", "bits"), DIMS_AND_BITS)
def test_values_of_all_heads_share_a_basis(dim, bits):
    coder = E8Quantizer.create(dim, bits, 0, "cpu")
    assert_equals_reference(coder, gaussian(2, 21, dim), torch.arange(21))


@pytest.mark.parametrize("bits", CODE_BITS)
def test_every_width_is_packed_alike(bits):
    coder = E8Quantizer.create(64, bits, 0, "cpu")
    assert_equals_reference(coder, gaussian(1, 65, 64), torch.arange(65))


@pytest.mark.parametrize(("dim", "bits"), DIMS_AND_BITS)
def test_keys_have_a_basis_and_a_mean_for_each_head_and_widths_that_fall_to_nothing(dim, bits):
    coder = key_coder(3, dim, bits)
    assert coder.widths[0] > 3
    assert coder.widths[-1] < 1 or bits == 4
    assert_equals_reference(coder, keys_of(coder, 21), torch.arange(100, 121))


@pytest.mark.parametrize("num_vectors", [1, 63, 64, 65, 129])
def test_any_number_of_vectors(num_vectors):
    coder = key_coder(2, 64)
    assert_equals_reference(coder, keys_of(coder, num_vectors), torch.arange(num_vectors))


def test_no_vectors_are_no_bytes():
    coder = key_coder(2, 64)
    assert triton_launch.encode(coder, torch.zeros(2, 0, 64)).codes.shape[:2] == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_input_types(dtype):
    coder = key_coder(2, 80)
    assert_equals_reference(coder, keys_of(coder, 70).to(dtype), torch.arange(70))


def test_heads_have_positions_of_their_own_or_none():
    coder = key_coder(2, 64)
    vectors = keys_of(coder, 70)
    assert_equals_reference(coder, vectors, None)
    assert_equals_reference(coder, vectors, torch.stack([torch.arange(70), torch.arange(70) + 31]))


def test_strided_vectors_are_coded_like_contiguous_ones():
    coder = key_coder(3, 64)
    wide = torch.zeros(70, 3, 200)
    wide[:, :, 3:131:2] = keys_of(coder, 70).transpose(0, 1)
    assert_equals_reference(coder, wide.transpose(0, 1)[:, :, 3:131:2], torch.arange(70))


@pytest.mark.parametrize("pairing", [Pairing.HALVES, Pairing.NEIGHBOURS])
@pytest.mark.parametrize(
    ("dim", "rotary_dim", "scaling"), [(64, 64, 1.0), (80, 32, 1.3), (128, 128, 1.0)]
)
def test_the_rotation_is_taken_off(pairing, dim, rotary_dim, scaling):
    coder, rotary = key_coder(2, dim), rotary_of(rotary_dim, scaling)
    positions = torch.stack([torch.arange(45), torch.arange(30_000, 30_045)])
    turned = rotary.put_on(keys_of(coder, 45), positions, pairing)
    assert_equals_reference(coder, turned, positions, rotary, pairing)


def test_a_rotation_that_changes_along_the_text_is_taken_off():
    coder, rotary = key_coder(2, 64), rotary_of(64, num_segments=3)
    positions = torch.arange(80, 230)
    turned = rotary.put_on(keys_of(coder, 150), positions, Pairing.HALVES)
    assert_equals_reference(coder, turned, positions, rotary, Pairing.HALVES)


@pytest.mark.parametrize("size", [0, 1e-30, 1e-5, 50, 1e4, 1e37])
def test_extreme_sizes(size):
    coder = E8Quantizer.create(64, 2, 0, "cpu")
    vectors = gaussian(1, 20, 64)
    vectors[:, 3:9] *= size
    assert_equals_reference(coder, vectors, torch.arange(20))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 36, 63)])
def test_values_that_are_not_finite_are_refused(bad, place):
    vectors = gaussian(2, 37, 64)
    vectors[place] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        triton_launch.encode(E8Quantizer.create(64, 2, 0, "cpu"), vectors)


def test_a_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"must be \[H, N, 64\]"):
        triton_launch.encode(E8Quantizer.create(64, 2, 0, "cpu"), torch.zeros(2, 5, 32))


def test_slots_that_are_named_are_written_and_no_others():
    coder, num_slots = key_coder(2, 64), 3 * 64
    vectors, positions = keys_of(coder, 50), torch.arange(50)
    slots = torch.randperm(num_slots)[:100].reshape(2, 50)
    slots[:, 7::5] = -1
    pools = []
    for encode_into in (triton_launch.encode_into, reference.encode_into):
        codes = torch.full((3, 64, coder.bytes_per_vector - 1), 0xAB, dtype=torch.uint8)
        pools.append(PackedVectors(codes, codes[..., 0].clone()))
        encode_into(pools[-1], slots, coder, vectors, positions)
    assert torch.equal(pools[0].codes, pools[1].codes)
    assert torch.equal(pools[0].scales, pools[1].scales)
    is_free = torch.ones(num_slots, dtype=torch.bool)
    is_free[slots[slots >= 0]] = False
    assert (pools[0].codes.flatten(0, 1)[is_free] == 0xAB).all()


def test_few_of_many_vectors_differ_and_only_at_ties():
    coder = E8Quantizer.create(64, 2, 0, "cpu")
    vectors, positions = gaussian(1, 1500, 64), torch.arange(1500)
    actual = triton_launch.encode(coder, vectors, positions)
    expected = reference.encode(coder, vectors, positions)
    assert_same_codes(coder, vectors, positions, actual, expected, most_ties=0.002)
