from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.lattice import is_lattice_point, nearest_point

quarters = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=8, max_size=8)
reals = st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8)


def minimal_vectors():
    vectors = [v for v in product((-0.5, 0.5), repeat=8) if sum(v) % 2 == 0]
    for i, j in combinations(range(8), 2):
        for a, b in product((-1.0, 1.0), repeat=2):
            vector = [0.0] * 8
            vector[i], vector[j] = a, b
            vectors.append(tuple(vector))
    return torch.tensor(vectors)


def test_there_are_240_minimal_vectors_all_in_the_lattice():
    vectors = minimal_vectors()
    assert len(vectors) == 240
    assert is_lattice_point(vectors).all()
    assert (vectors.square().sum(dim=1) == 2).all()


@settings(max_examples=100, deadline=None)
@given(st.one_of(quarters, reals))
def test_nearest_point_is_in_the_lattice_and_no_neighbour_is_nearer(coordinates):
    x = torch.tensor(coordinates, dtype=torch.float64)
    point = nearest_point(x)
    assert is_lattice_point(point)
    distance = (x - point).square().sum()
    neighbours = point + minimal_vectors().double()
    assert ((x - neighbours).square().sum(dim=1) >= distance - 1e-9).all()
    # the covering radius of E8 is 1
    assert distance <= 1 + 1e-9


def test_lattice_points_are_their_own_nearest_point():
    steps = torch.randint(240, (200, 12), generator=torch.Generator().manual_seed(0))
    points = minimal_vectors()[steps].sum(dim=1)
    assert is_lattice_point(points).all()
    assert torch.equal(nearest_point(points), points)


@pytest.mark.parametrize(
    "point",
    [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0.5] * 7 + [-0.5],
        [0.5] * 4 + [0] * 4,
        [0.25] * 8,
    ],
)
def test_points_off_the_lattice_are_told_apart(point):
    assert not is_lattice_point(torch.tensor(point, dtype=torch.float32))


def test_mean_squared_error_matches_the_second_moment_of_e8():
    x = 50 * torch.rand(100_000, 8, generator=torch.Generator().manual_seed(1))
    # Conway and Sloane, Sphere Packings, Lattices and Groups, chapter 2, table 2.3: 929 / 12960
    assert (x - nearest_point(x)).square().mean() == pytest.approx(929 / 12960, rel=0.01)


def test_wrong_last_dimension_is_refused():
    with pytest.raises(ValueError, match="must be 8"):
        nearest_point(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="must be 8"):
        is_lattice_point(torch.zeros(16))
