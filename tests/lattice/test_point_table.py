import pytest
import torch

from nexusquant.config import CODE_BITS
from nexusquant.lattice import decode_box, decode_packed, unpack_fields
from nexusquant.lattice.point_table import digit_table, value_table


def random_bytes(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def slow_decode(packed, bits):
    fields = unpack_fields(packed, bits)
    return decode_box(fields.unflatten(-1, (-1, 8)), bits).flatten(-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize("dim", [8, 64, 80])
def test_table_decodes_exactly_what_the_fields_mean(bits, dtype, dim):
    packed = random_bytes(3, 200, dim * bits // 8)
    decoded = decode_packed(packed, bits, dtype)
    assert decoded.dtype == dtype
    assert decoded.shape == (3, 200, dim)
    expected = slow_decode(packed, bits)
    if dtype != torch.bfloat16 or bits <= 6:
        # float32 on the left: the narrow types must hold every value exactly
        assert torch.equal(decoded.float(), expected)
    else:
        torch.testing.assert_close(decoded.float(), expected, atol=1.0, rtol=2**-7)


@pytest.mark.parametrize("bits", CODE_BITS)
def test_strided_and_oddly_placed_bytes_decode_alike(bits):
    packed = random_bytes(7, 5, 2 * bits)
    view = packed.transpose(0, 1)[1:, ::2]
    assert torch.equal(decode_packed(view, bits, torch.float32), slow_decode(view, bits))
    odd = random_bytes(1 + 24 * bits)[1:].view(3, 8 * bits)
    assert torch.equal(decode_packed(odd, bits, torch.float32), slow_decode(odd, bits))


@pytest.mark.parametrize("bits", CODE_BITS)
def test_no_vectors_decode_to_no_vectors(bits):
    assert decode_packed(random_bytes(2, 0, 8 * bits), bits, torch.float32).shape == (2, 0, 64)


def test_table_is_made_once():
    device = torch.device("cpu")
    for table in (value_table, digit_table):
        assert table(2, device, torch.float32) is table(2, device, torch.float32)


def test_bytes_that_are_not_whole_subvectors_are_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        decode_packed(random_bytes(4), 3, torch.float32)
