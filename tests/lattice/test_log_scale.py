import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.lattice import decode_scale, encode_scale

ALL_CODES = torch.arange(256, dtype=torch.uint8)
LARGEST_ERROR = 2 ** (1 / 24)


def test_every_code_survives_the_round_trip():
    assert torch.equal(encode_scale(decode_scale(ALL_CODES, torch.float32)), ALL_CODES)


def test_scales_grow_with_their_codes_by_a_constant_factor():
    scales = decode_scale(ALL_CODES, torch.float32)
    assert scales[0] == 0
    assert scales[1] == 2**-13
    torch.testing.assert_close(scales[2:] / scales[1:-1], torch.full((254,), 2 ** (1 / 12)))


@settings(max_examples=100, deadline=None)
@given(st.floats(2**-13, 2**8, width=32))
def test_relative_error_is_at_most_half_a_step(scale):
    decoded = float(decode_scale(encode_scale(torch.tensor(scale)), torch.float32))
    assert scale / LARGEST_ERROR * 0.9999 <= decoded <= scale * LARGEST_ERROR * 1.0001


@pytest.mark.parametrize(
    ("scale", "code"),
    [(0.0, 0), (2**-14 * 0.99, 0), (2**-14, 1), (2**-13, 1), (1.0, 157), (1e9, 255)],
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
