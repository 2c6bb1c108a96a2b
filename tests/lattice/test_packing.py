import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.config import CODE_BITS
from nexusquant.lattice import pack_fields, unpack_fields


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_digits_of_two_bits_fill_words_and_the_top_bits_of_odd_widths_bytes(data):
    bits = data.draw(st.sampled_from(CODE_BITS))
    num_groups = data.draw(st.integers(1, 3))
    some_fields = st.lists(st.integers(0, 2**bits - 1), min_size=8, max_size=8)
    groups = [data.draw(some_fields) for _ in range(num_groups)]
    expected = b""
    for digit in range(bits // 2):
        for group in groups:
            word = sum(((f >> 2 * digit) & 3) << 2 * i for i, f in enumerate(group))
            expected += word.to_bytes(2, "little")
    if bits % 2:
        expected += bytes(
            sum((f >> (bits - 1)) << i for i, f in enumerate(group)) for group in groups
        )
    packed = pack_fields(torch.tensor(groups, dtype=torch.uint8).flatten(), bits)
    assert bytes(packed.tolist()) == expected


@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize("shape", [(8,), (1, 64), (3, 5, 80), (2, 0, 16), (0, 8)])
def test_round_trip_is_exact_and_leaves_no_spare_byte(bits, shape):
    generator = torch.Generator().manual_seed(3)
    fields = torch.randint(2**bits, shape, dtype=torch.uint8, generator=generator)
    packed = pack_fields(fields, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*shape[:-1], shape[-1] * bits // 8)
    assert torch.equal(unpack_fields(packed, bits), fields)


@pytest.mark.parametrize("bits", CODE_BITS)
def test_strided_input_gives_the_same_bytes(bits):
    generator = torch.Generator().manual_seed(4)
    fields = torch.randint(2**bits, (16, 6, 32), dtype=torch.uint8, generator=generator)
    view = fields.transpose(0, 1)[1::2]
    packed = pack_fields(view, bits)
    assert torch.equal(packed, pack_fields(view.contiguous(), bits))
    wide = torch.cat([packed, packed], dim=-1)
    assert torch.equal(unpack_fields(wide[..., : packed.shape[-1]], bits), view)


def test_sizes_that_are_not_whole_subvectors_are_refused():
    with pytest.raises(ValueError, match="divisible by 8"):
        pack_fields(torch.zeros(2, 12, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match="multiple of 3"):
        unpack_fields(torch.zeros(2, 4, dtype=torch.uint8), 3)
