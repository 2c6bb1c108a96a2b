from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nexusquant.config import CODE_BITS
from nexusquant.lattice import E8Quantizer, PackedVectors, rotation_matrix, token_signs

# a scale is at most half a step of a twelfth of an octave off
SCALE_ERROR = 2 ** (1 / 24) * 1.001


def gaussian(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def quantizer(bits, dim=64):
    return E8Quantizer.create(dim, bits, seed=0, device="cpu")


def round_trip(x, bits):
    coder = quantizer(bits, x.shape[-1])
    return coder.decode(coder.encode(x), torch.float32)


def relative_error(x, decoded):
    return float((x.float() - decoded.float()).square().sum() / x.float().square().sum())


def alignment(x, decoded):
    return (x * decoded).sum(dim=-1) / x.square().sum(dim=-1)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.52), (2, 0.115), (3, 0.0335), (4, 0.0086)])
def test_error_is_that_of_the_code_without_shrinkage(bits, expected):
    # a code of error e that does not shrink has the error e / (1 - e), less what scales save
    x = gaussian(4, 500, 64)
    assert relative_error(x, round_trip(x, bits)) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("dim", [8, 64, 80, 96, 128, 256])
def test_error_falls_with_every_bit(dim):
    x = gaussian(2, 300, dim)
    errors = [relative_error(x, round_trip(x, bits)) for bits in CODE_BITS]
    assert all(later < 0.5 * earlier for earlier, later in pairwise(errors))


@pytest.mark.parametrize("bits", CODE_BITS)
def test_reconstruction_neither_shrinks_nor_grows(bits):
    # sizes over three octaves, so that the rounding of scales averages out
    x = gaussian(4, 1000, 64) * 2 ** torch.linspace(-1, 2, 1000).unsqueeze(1)
    aligned = alignment(x, round_trip(x, bits))
    assert aligned.mean() == pytest.approx(1, abs=0.002)
    assert aligned.max() <= SCALE_ERROR
    assert aligned.min() >= 1 / SCALE_ERROR


@pytest.mark.parametrize("bits", CODE_BITS)
def test_stored_bytes_are_the_promised_ones(bits):
    coder = quantizer(bits, dim=80)
    packed = coder.encode(gaussian(3, 11, 80))
    assert packed.codes.dtype == packed.scales.dtype == torch.uint8
    assert packed.codes.shape == (3, 11, 10 * bits)
    assert packed.scales.shape == (3, 11)
    assert packed.codes.nbytes + packed.scales.nbytes == 33 * coder.bytes_per_vector


@pytest.mark.parametrize("bits", CODE_BITS)
def test_zero_vectors_decode_to_exact_zeros_among_others(bits):
    x = gaussian(1, 5, 64)
    x[0, 2] = 0
    coder = quantizer(bits)
    packed = coder.encode(x)
    assert packed.scales[0, 2] == 0
    decoded = coder.decode(packed, torch.float32)
    assert (decoded[0, 2] == 0).all()
    assert (decoded[0, [0, 1, 3, 4]].norm(dim=-1) > 1).all()


@pytest.mark.parametrize("dim", [64, 80])
def test_spikes_are_coded_like_any_vector(dim):
    # alone a spike is an extreme case: all rotated coordinates are alike
    x = 3 * torch.eye(dim)
    decoded = round_trip(x, 3)
    assert relative_error(x, decoded) < 0.15
    assert alignment(x, decoded).max() <= SCALE_ERROR


@pytest.mark.parametrize("size", [1e-3, 1e-2, 50.0, 200.0])
def test_error_does_not_depend_on_the_size(size):
    x = gaussian(1, 200, 64)
    error = relative_error(size * x, round_trip(size * x, 2))
    assert error == pytest.approx(relative_error(x, round_trip(x, 2)), rel=0.05)


@pytest.mark.parametrize("size", [1e-30, 1e-7, 1e-5])
def test_vectors_below_the_smallest_scale_become_zeros(size):
    assert (round_trip(size * gaussian(1, 20, 64), 2) == 0).all()


@pytest.mark.parametrize("size", [1e4, 1e10, 1e37])
def test_vectors_above_the_largest_scale_saturate_without_turning(size):
    x = gaussian(1, 50, 64)
    decoded = round_trip(size * x, 2)
    assert decoded.isfinite().all()
    assert (torch.cosine_similarity(x, decoded, dim=-1) > 0.5).all()
    assert (decoded.norm(dim=-1) > 1000).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    x = gaussian(2, 4, 64)
    x[1, 3, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantizer(2).encode(x)


def test_strided_and_sliced_input_is_coded_like_contiguous():
    x = gaussian(70, 6, 128).transpose(0, 1)[1::2, 3:, 32:96]
    coder = quantizer(2)
    strided, contiguous = coder.encode(x), coder.encode(x.contiguous())
    # another order of summation may move a value across the border between two codes
    assert (strided.codes == contiguous.codes).float().mean() > 0.999
    assert relative_error(x, coder.decode(strided, torch.float32)) < 0.13


def test_long_input_is_coded_like_its_parts():
    x = gaussian(4, 2500, 64)
    coder = quantizer(2)
    whole = coder.encode(x)
    parts = [coder.encode(part) for part in x.split(700, dim=1)]
    codes = torch.cat([part.codes for part in parts], dim=1)
    scales = torch.cat([part.scales for part in parts], dim=1)
    assert (whole.codes == codes).float().mean() > 0.999
    assert (whole.scales == scales).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_input_and_output_cost_nothing(dtype):
    x = gaussian(2, 200, 64).to(dtype)
    coder = quantizer(2)
    decoded = coder.decode(coder.encode(x), dtype)
    assert decoded.dtype == dtype
    assert relative_error(x, decoded) < 0.13


def test_mean_removes_a_large_constant_at_no_loss():
    x = gaussian(2, 300, 64)
    direction = gaussian(2, 1, 64)
    constant = 900 * direction / direction.norm(dim=-1, keepdim=True)
    coder = replace(quantizer(2), mean=constant)
    decoded = coder.decode(coder.encode(x + constant), torch.float32) - constant
    error_without = relative_error(x, round_trip(x, 2))
    assert relative_error(x, decoded) == pytest.approx(error_without, rel=0.01)


def test_products_in_the_rotated_basis_equal_those_with_decoded_vectors():
    x, query = gaussian(2, 30, 64), gaussian(1, 64)[0]
    coder = replace(quantizer(2), mean=gaussian(2, 1, 64))
    packed = coder.encode(x)
    points, scales = coder.decode_points(packed, torch.float32)
    products = points @ (coder.decoder @ query) * scales + coder.mean @ query
    expected = coder.decode(packed, torch.float32) @ query
    torch.testing.assert_close(products, expected, atol=1e-4, rtol=1e-4)


def test_no_vectors_are_coded_to_no_bytes():
    coder = quantizer(2)
    packed = coder.encode(torch.zeros(3, 0, 64))
    assert packed.codes.shape == (3, 0, 16)
    assert coder.decode(packed, torch.float32).shape == (3, 0, 64)


def test_decoding_a_slice_equals_slicing_the_decoded():
    coder = quantizer(3)
    packed = coder.encode(gaussian(2, 20, 64))
    part = PackedVectors(packed.codes[1, 5:9], packed.scales[1, 5:9])
    whole = coder.decode(packed, torch.float32)
    torch.testing.assert_close(coder.decode(part, torch.float32), whole[1, 5:9])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        E8Quantizer.create(60, 2, seed=0, device="cpu")
    with pytest.raises(ValueError, match="choose one of"):
        E8Quantizer.create(64, 9, seed=0, device="cpu")
    with pytest.raises(ValueError, match="must be square"):
        E8Quantizer.of_rows((2,), torch.zeros(8, 16), torch.ones(1))
    with pytest.raises(ValueError, match="mean has 8"):
        E8Quantizer.of_rows((2, 2), rotation_matrix(16, 0), torch.ones(2), mean=torch.zeros(1, 8))
    with pytest.raises(ValueError, match="they must fall"):
        E8Quantizer.of_rows((1, 2), rotation_matrix(16, 0), torch.ones(2))
    with pytest.raises(ValueError, match="they must fall"):
        E8Quantizer.of_rows((0, 0), rotation_matrix(16, 0), torch.ones(2))
    with pytest.raises(ValueError, match="gains has 1"):
        E8Quantizer.of_rows((2, 2), rotation_matrix(16, 0), torch.ones(1))
    with pytest.raises(ValueError, match=r"must be \[..., N, 64\]"):
        quantizer(2).encode(torch.zeros(3, 32))


@pytest.mark.parametrize("bits", [1, 1.5, 2, 3])
def test_errors_of_equal_vectors_at_even_and_odd_positions_average_out(bits):
    coder, x = quantizer(bits), gaussian(500, 1, 64).expand(-1, 2, -1)
    positions = torch.arange(2)
    pair = coder.decode(coder.encode(x, positions), torch.float32, positions)
    # independent errors halve in the mean of two; equal ones would stay
    ratio = relative_error(x[:, 0], pair.mean(dim=1)) / relative_error(x[:, 0], pair[:, 0])
    assert 0.4 < ratio < 0.65


def test_the_sign_of_a_position_changes_neither_bytes_nor_error():
    coder, x = quantizer(2), gaussian(4, 500, 64)
    even, odd = torch.arange(0, 1000, 2), torch.arange(1, 1001, 2)
    plain, flipped = coder.encode(x, even), coder.encode(x, odd)
    assert torch.equal(plain.codes, coder.encode(x).codes)
    assert not torch.equal(plain.codes, flipped.codes)
    assert flipped.codes.nbytes == plain.codes.nbytes
    errors = [
        relative_error(x, coder.decode(packed, torch.float32, positions))
        for packed, positions in ((plain, even), (flipped, odd))
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_token_signs_alternate():
    assert token_signs(torch.tensor([[0, 1, 2], [5, 8, 3]])).tolist() == [[1, -1, 1], [-1, 1, -1]]
