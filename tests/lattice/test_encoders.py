from __future__ import annotations

import torch
from encode_cases import key_coder

from nexusquant.lattice import E8Quantizer, encoders_of


def test_encoders_found_together_are_those_found_one_by_one():
    shared = E8Quantizer.create(64, 2, 0, "cpu")
    coders = [key_coder(2, 64), shared, key_coder(3, 80, 1.25), shared, key_coder(70, 16)]
    found = encoders_of(coders)
    assert found[1] is found[3]
    for coder, encoder in zip(coders, found, strict=True):
        assert encoder.shape == coder.encoder.shape
        torch.testing.assert_close(encoder, coder.encoder)


def test_a_known_encoder_gives_the_same_codes():
    coder = key_coder(2, 64)
    vectors, positions = torch.randn(2, 30, 64), torch.arange(30)
    expected = coder.encode(vectors, positions)
    found = coder.encode(vectors, positions, encoders_of([coder])[0])
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)


def test_coders_on_several_devices_are_inverted_each_where_it_is():
    coder = E8Quantizer.create(16, 2, 0, "cpu")
    here, elsewhere = encoders_of([coder, coder.to("meta")])
    assert torch.equal(here, coder.encoder)
    assert elsewhere.device.type == "meta"
    assert elsewhere.shape == here.shape
