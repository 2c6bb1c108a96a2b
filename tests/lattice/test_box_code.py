from itertools import product

import pytest
import torch
from gaussian import LLOYD_MAX_MSE, UNIFORM_MSE, box_mse, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.config import CODE_BITS
from nexusquant.lattice import decode_box, encode_box, is_lattice_point, nearest_point
from nexusquant.lattice.box_code import CENTRE_OFFSET

OFFSET = torch.tensor(CENTRE_OFFSET)


def words(bits):
    """Every word of 1 or 2 bits, random ones of more. [M, 8]."""
    if bits == 1:
        return torch.tensor(list(product(range(2), repeat=8)), dtype=torch.uint8)
    if bits == 2:
        number = torch.arange(65_536).unsqueeze(1)
        return (number >> torch.arange(0, 16, 2) & 3).to(torch.uint8)
    generator = torch.Generator().manual_seed(bits)
    return torch.randint(2**bits, (20_000, 8), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("bits", CODE_BITS)
def test_every_word_names_a_lattice_point_and_encodes_to_itself(bits):
    fields = words(bits)
    values = decode_box(fields, bits)
    assert is_lattice_point(values - OFFSET).all()
    assert torch.equal(encode_box(values, bits), fields)


@pytest.mark.parametrize("bits", [1, 2])
def test_different_words_name_different_values(bits):
    values = decode_box(words(bits), bits)
    assert len(values.unique(dim=0)) == 2 ** (8 * bits)


@pytest.mark.parametrize("bits", CODE_BITS)
def test_values_of_each_coordinate_are_centred_on_zero(bits):
    for coordinate in decode_box(words(bits), bits).T:
        seen = coordinate.unique()
        assert len(seen) == 2 ** (bits + 1)
        assert torch.equal(seen, -seen.flip(0))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 30.0])
def test_encoding_is_the_nearest_of_all_words(bits, spread):
    y = spread * samples(256)
    codebook = decode_box(words(bits), bits).double()
    distances = torch.cdist(y.double(), codebook, compute_mode="donot_use_mm_for_euclid_dist")
    chosen = (y.double() - decode_box(encode_box(y, bits), bits)).norm(dim=1)
    torch.testing.assert_close(chosen, distances.min(dim=1).values, atol=1e-6, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-24, 24).map(lambda n: n / 8), min_size=8, max_size=8))
def test_encoding_is_the_nearest_of_all_words_at_ties_too(coordinates):
    y = torch.tensor(coordinates)
    best = (y - decode_box(words(1), 1)).square().sum(dim=1).min()
    chosen = (y - decode_box(encode_box(y, 1), 1)).square().sum()
    assert chosen == pytest.approx(float(best), abs=1e-5)


@pytest.mark.parametrize("bits", [3, 4])
def test_deep_inside_the_box_encoding_is_the_nearest_lattice_point(bits):
    y = (torch.rand(20_000, 8, generator=torch.Generator().manual_seed(2)) - 0.5) * (2**bits - 3)
    decoded = decode_box(encode_box(y, bits), bits)
    torch.testing.assert_close(decoded, nearest_point(y - OFFSET) + OFFSET)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.341), (2, 0.102), (3, 0.0318), (4, 0.0099)])
def test_gaussian_error_is_that_of_the_lattice(bits, expected):
    mse = box_mse(samples(60_000), bits)
    assert mse == pytest.approx(expected, rel=0.015)
    # at 4 bits the unequal steps of Lloyd-Max are worth as much as the lattice
    assert mse < (LLOYD_MAX_MSE if bits < 4 else UNIFORM_MSE)[bits]


@pytest.mark.parametrize("bits", CODE_BITS)
def test_step_is_within_a_hundredth_of_the_best(bits):
    x = samples(20_000)
    best = min(box_mse(x, bits, 0.7 + 0.025 * i) for i in range(25))
    assert box_mse(x, bits) < 1.01 * best


def test_empty_input_gives_empty_fields():
    assert encode_box(torch.zeros(0, 8), 2).shape == (0, 8)
    assert decode_box(torch.zeros(0, 8, dtype=torch.uint8), 2).shape == (0, 8)


@pytest.mark.parametrize("bits", [0, 9])
def test_unknown_width_is_refused(bits):
    with pytest.raises(ValueError, match="choose one of 1, 2, 3, 4"):
        encode_box(torch.zeros(8), bits)
    with pytest.raises(ValueError, match="choose one of 1, 2, 3, 4"):
        decode_box(torch.zeros(8, dtype=torch.uint8), bits)


def test_wrong_last_dimension_is_refused():
    with pytest.raises(ValueError, match="must be 8"):
        encode_box(torch.zeros(4, 9), 2)
    with pytest.raises(ValueError, match="must be 8"):
        decode_box(torch.zeros(4, 9, dtype=torch.uint8), 2)
