import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.lattice import decode_scale, encode_scale
from nexusquant.lattice.log_scale import CODE_OF_ONE, SPREAD, STEEPNESS

ALL_CODES = torch.arange(256, dtype=torch.uint8)


def test_every_code_survives_the_round_trip():
    assert torch.equal(encode_scale(decode_scale(ALL_CODES, torch.float32)), ALL_CODES)


def test_scales_grow_with_their_codes_in_steps_that_are_finest_at_one():
    exponents = decode_scale(ALL_CODES, torch.float32)[1:].double().log2()
    steps = exponents.diff()
    assert decode_scale(ALL_CODES, torch.float32)[0] == 0
    assert (steps > 0).all()
    assert float(steps.min()) == pytest.approx(SPREAD / STEEPNESS, rel=1e-3)
    # codes 1 to 255; steps[i] lies between codes i + 1 and i + 2
    assert int(steps.argmin()) in (CODE_OF_ONE - 2, CODE_OF_ONE - 1)
    torch.testing.assert_close(exponents, -exponents.flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("octaves", "steps_per_octave"), [(0, 36), (1, 27), (3, 12), (6, 6)])
def test_steps_are_as_fine_as_the_grid_promises(octaves, steps_per_octave):
    exponents = decode_scale(ALL_CODES, torch.float32)[1:].double().log2()
    within = exponents.diff()[exponents[:-1].abs() <= octaves]
    assert float(within.max()) <= 1 / steps_per_octave


@settings(max_examples=100, deadline=None)
@given(st.floats(2**-13, 2**13, width=32))
def test_scale_is_coded_as_good_as_the_nearest(scale):
    grid = decode_scale(ALL_CODES, torch.float32)[1:].double().log2()
    exponent = torch.tensor(scale).double().log2()
    nearest = float((grid - exponent).abs().min())
    decoded = decode_scale(encode_scale(torch.tensor(scale)), torch.float32).double().log2()
    # the grid is bent a little between two codes
    assert float((decoded - exponent).abs()) <= nearest * 1.05 + 1e-6


@pytest.mark.parametrize(
    ("scale", "code"),
    [(0.0, 0), (2**-14.1, 0), (2**-13.9, 1), (2**-13.1, 1), (1.0, 128), (1e9, 255)],
)
def test_ends_of_the_range(scale, code):
    assert encode_scale(torch.tensor(scale)) == code


def test_infinity_saturates():
    assert encode_scale(torch.tensor(float("inf"))) == 255


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_accepted_and_made(dtype):
    scales = decode_scale(ALL_CODES, dtype)
    assert scales.dtype == dtype
    assert scales.isfinite().all()
    assert torch.equal(encode_scale(scales), ALL_CODES)
