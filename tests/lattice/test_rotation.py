import pytest
import torch

from nexusquant.lattice import rotation_matrix


@pytest.mark.parametrize("dim", [8, 16, 24, 64, 72, 80, 96, 128, 192, 256])
def test_rotation_is_orthonormal(dim):
    matrix = rotation_matrix(dim, seed=1)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(dim), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dim", [64, 80, 96, 128])
def test_rotation_spreads_a_spike_over_all_coordinates(dim):
    rows = rotation_matrix(dim, seed=2)
    # a spike of 1 ends no higher than twice its even share, 1 / sqrt(dim)
    assert rows.abs().max() <= 2 / dim**0.5


def test_same_seed_same_matrix_and_another_seed_another():
    assert torch.equal(rotation_matrix(64, seed=3), rotation_matrix(64, seed=3))
    assert not torch.equal(rotation_matrix(64, seed=3), rotation_matrix(64, seed=4))


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = rotation_matrix(64, seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(rotation_matrix(64, seed=6), first)


@pytest.mark.parametrize("dim", [0, -8, 4, 60])
def test_sizes_that_eight_does_not_divide_are_refused(dim):
    with pytest.raises(ValueError, match="multiple of 8"):
        rotation_matrix(dim, seed=0)
