"""The basis of keys: what it promises, on made-up covariances."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nexusquant.lattice import (
    GAUSSIAN_ERROR,
    E8Quantizer,
    fit_key_basis,
    key_quantizer,
    share_bits,
)
from nexusquant.lattice.key_basis import COST_FLOOR

DIM, HEADS = 64, 2


def spectrum(decay, seed):
    """A covariance with the eigenvalues 1 to 10^-decay in a random basis. [HEADS, DIM, DIM]."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(
        torch.randn(HEADS, DIM, DIM, generator=generator, dtype=torch.float64)
    ).Q
    values = torch.logspace(0, -decay, DIM, dtype=torch.float64)
    return basis * values @ basis.mT


def drawn(covariance, mean, num_vectors=1500, seed=5):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(HEADS, num_vectors, DIM, generator=generator, dtype=torch.float64)
    return (noise @ torch.linalg.cholesky(covariance).mT + mean.unsqueeze(1)).float()


def with_floor(cost):
    """Queries to come differ: the fit lets no direction be free."""
    mean = cost.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None]
    return cost + COST_FLOOR * mean * torch.eye(DIM, dtype=cost.dtype)


covariance, cost = spectrum(3, seed=1), 40 * spectrum(3, seed=2)
mean = 30 * torch.randn(HEADS, DIM, generator=torch.Generator().manual_seed(3)).double()
keys = drawn(covariance, mean)


def weighted(one, other, weight=cost):
    """<one, other> in the measure of cost. [H, N]."""
    return ((one.double() @ weight) * other.double()).sum(dim=-1)


def fitted(bits):
    basis = fit_key_basis(mean, covariance, cost)
    return key_quantizer(basis, share_bits([basis.variances], bits)[0])


def decoded_by(coder, vectors):
    return coder.decode(coder.encode(vectors), torch.float32)


def test_the_basis_can_be_inverted_and_its_variances_fall():
    basis = fit_key_basis(mean, covariance, cost)
    identity = torch.eye(DIM).expand(HEADS, DIM, DIM)
    rows = basis.rows.double()
    torch.testing.assert_close((rows @ torch.linalg.inv(rows)).float(), identity)
    assert (basis.variances > 0).all()
    assert (basis.variances.diff(dim=-1) < 0).all()
    torch.testing.assert_close(basis.mean[:, 0], mean.float())


def test_coordinates_have_the_promised_variances_and_cost_one_each():
    basis = fit_key_basis(mean, covariance, cost)
    rows = basis.rows.double()
    # an error of one in each coordinate costs one, and no two of them share their cost
    identity = torch.eye(DIM, dtype=torch.float64).expand(HEADS, DIM, DIM)
    torch.testing.assert_close(rows @ with_floor(cost) @ rows.mT, identity, atol=1e-4, rtol=0)
    inverse = torch.linalg.inv(rows)
    variances = (inverse.mT @ covariance @ inverse).diagonal(dim1=-2, dim2=-1)
    # Hadamard leaves each coordinate of a group the mean of its group
    expected = basis.variances.double().repeat_interleave(8, dim=-1)
    torch.testing.assert_close(variances, expected, rtol=2e-3, atol=0)


def test_keys_cost_a_third_or_less_of_what_a_plain_rotation_costs():
    plain = E8Quantizer.create(DIM, 2, seed=0, device="cpu")
    # the rotation gets the mean for nothing
    centred = keys - mean.float().unsqueeze(1)
    by_plain = decoded_by(plain, centred) - centred
    by_fit = decoded_by(fitted(2), keys) - keys
    assert weighted(by_fit, by_fit).sum() < weighted(by_plain, by_plain).sum() / 3


def test_the_error_is_the_one_that_bits_were_shared_by():
    basis = fit_key_basis(mean, covariance, cost)
    widths = share_bits([basis.variances], 2)[0]
    error = decoded_by(key_quantizer(basis, widths), keys) - keys
    actual = weighted(error, error, with_floor(cost)).mean(dim=1).sum()
    left = torch.tensor([GAUSSIAN_ERROR[width] for width in widths])
    predicted = 8 * float((basis.variances * left).sum())
    # a code that does not shrink errs by e / (1 - e), and one scale serves all groups
    assert predicted * 0.85 < actual < predicted * 1.35


def test_every_bit_lowers_the_cost():
    errors = []
    for bits in (1, 1.5, 2, 2.5, 3, 3.5, 4):
        error = decoded_by(fitted(bits), keys) - keys
        errors.append(float(weighted(error, error).sum()))
    assert all(later < 0.85 * earlier for earlier, later in pairwise(errors))


@pytest.mark.parametrize("bits", [1, 1.3, 2, 2.7, 4])
def test_bytes_are_the_widths_and_a_scale_and_no_more_than_asked_for(bits):
    coder = fitted(bits)
    packed = coder.encode(keys[:, :11])
    assert coder.bytes_per_vector == sum(coder.widths) + 1
    assert packed.codes.shape == (HEADS, 11, sum(coder.widths))
    assert packed.codes.nbytes + packed.scales.nbytes == HEADS * 11 * coder.bytes_per_vector
    assert 8 * sum(coder.widths) <= bits * DIM
    assert 8 * sum(coder.widths) > bits * DIM - 8


def test_over_layers_bytes_average_to_no_more_than_asked_for():
    layers = [fit_key_basis(mean, covariance, size * cost) for size in (1e-3, 1.0, 50.0)]
    widths = share_bits([basis.variances for basis in layers], 2)
    used = [sum(of_layer) for of_layer in widths]
    assert 3 * DIM * 2 - 8 < 8 * sum(used) <= 3 * DIM * 2
    assert used[0] < used[1] < used[2]


@pytest.mark.parametrize("widths", [(1,) * 8, (3, 3, 2, 2, 2, 1, 1, 1), (4,) * 8])
def test_products_in_the_measure_of_cost_come_out_right(widths):
    coder = key_quantizer(fit_key_basis(mean, covariance, cost), widths)
    # sizes over three octaves, so that the rounding of scales averages out
    centred = (keys - mean.float().unsqueeze(1)) * 2 ** torch.linspace(-1, 2, 1500).unsqueeze(1)
    decoded = decoded_by(coder, centred + mean.float().unsqueeze(1)) - mean.float().unsqueeze(1)
    measure = with_floor(cost)
    share = weighted(centred, decoded, measure) / weighted(centred, centred, measure)
    assert share.mean() == pytest.approx(1, abs=0.005)
    # one vector is off by the rounding of its scale and of the basis at most
    assert (share - 1).abs().max() < 0.08


def test_what_is_not_stored_leaves_the_stored_part_unbiased():
    coder = fitted(1)
    assert 0 < coder.num_coded < DIM
    centred = keys - mean.float().unsqueeze(1)
    decoded = decoded_by(coder, keys) - mean.float().unsqueeze(1)
    to_coordinates = torch.linalg.inv(coder.rows(DIM).double())[..., : coder.num_coded]
    gains = coder.gains.repeat_interleave(8, dim=-1)[:, None, : coder.num_coded]
    exact, coded = (v.double() @ to_coordinates * gains for v in (centred, decoded))
    share = (exact * coded).sum(dim=-1) / exact.square().sum(dim=-1)
    assert share.mean() == pytest.approx(1, abs=0.005)


def relative_error(key_size, cost_size):
    """What is lost of keys around zero, over what there is, in the measure of cost."""
    basis = fit_key_basis(0 * mean, key_size**2 * covariance, cost_size * cost)
    vectors = drawn(key_size**2 * covariance, 0 * mean)
    coder = key_quantizer(basis, share_bits([basis.variances], 2)[0])
    error = decoded_by(coder, vectors) - vectors
    return float(weighted(error, error).sum() / weighted(vectors, vectors).sum())


# gradients of one model may be a millionth of another's, and cost is their square
@pytest.mark.parametrize("cost_size", [1e-18, 1e-14, 1e-8, 1e6, 1e12])
def test_the_unit_of_cost_does_not_matter(cost_size):
    assert relative_error(1.0, cost_size) == pytest.approx(relative_error(1.0, 1.0), rel=0.05)


@pytest.mark.parametrize("key_size", [1e-3, 1e-2, 1e2])
def test_the_unit_of_keys_does_not_matter(key_size):
    assert relative_error(key_size, 1.0) == pytest.approx(relative_error(1.0, 1.0), rel=0.05)


def rank_one(matrix):
    return matrix[..., :1] @ matrix[..., :1].mT


ZERO = torch.zeros(HEADS, DIM, DIM, dtype=torch.float64)
huge = covariance.clone()
huge[:, 5, 5] = 1e12
DEGENERATE = {
    "no covariance": (ZERO, cost),
    "no cost": (covariance, ZERO),
    "nothing": (ZERO, ZERO),
    "keys on a line": (rank_one(covariance), cost),
    "cost on a line": (covariance, rank_one(cost)),
    "both on a line": (rank_one(covariance), rank_one(cost)),
    "one huge variance": (huge, cost),
    "one huge cost": (covariance, 1e-6 * huge),
    "tiny": (1e-12 * covariance, 1e-12 * cost),
    "large": (1e8 * covariance, 1e8 * cost),
    "one head that never varies": (covariance * torch.tensor([1.0, 0.0])[:, None, None], cost),
}


def finite_coder(name, bits=2):
    basis = fit_key_basis(mean, *DEGENERATE[name])
    assert all(part.isfinite().all() for part in basis)
    return key_quantizer(basis, share_bits([basis.variances], bits)[0])


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_degenerate_statistics_give_a_coder_of_finite_values(name, bits):
    coder = finite_coder(name, bits)
    for vectors in (keys, 1e6 * keys, mean.float().unsqueeze(1), torch.zeros(HEADS, 3, DIM)):
        assert decoded_by(coder, vectors).isfinite().all()


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_statistics_leave_the_mean_exact(name):
    at_mean = mean.float().unsqueeze(1).expand(HEADS, 4, DIM)
    torch.testing.assert_close(decoded_by(finite_coder(name), at_mean), at_mean)


@pytest.mark.parametrize(
    "name", ["no cost", "cost on a line", "large", "one huge cost", "one huge variance"]
)
def test_keys_that_vary_are_told_apart_whatever_the_statistics(name):
    varying, _ = DEGENERATE[name]
    vectors = drawn(varying, mean)
    decoded = decoded_by(finite_coder(name, bits=4), vectors) - mean.float().unsqueeze(1)
    centred = vectors - mean.float().unsqueeze(1)
    error = (decoded - centred).square().sum() / centred.square().sum()
    assert error < 0.1
