"""Keys and values that cannot be coded are told of, also where a GPU only notes them."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from nexusquant import PRESETS, CompressedCache, build_profile
from nexusquant.cache import codec


@pytest.mark.parametrize("is_noted", [False, True])
def test_finishing_a_text_with_bad_vectors_fails(monkeypatch, is_noted):
    model = tiny_models.llama()
    cache = CompressedCache(
        model, PRESETS["safe"], build_profile(model, token_ids=tiny_models.token_ids(300))
    )
    with torch.no_grad():
        model(tiny_models.token_ids(300), past_key_values=cache)
    if is_noted:
        # as a kernel does it, for one layer
        monkeypatch.setattr(codec, "encode_into", note_what_is_bad)
    cache.layers[1].recent[0][0, 100, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        cache.finish_prefill()


def note_what_is_bad(pool, slots, quantizer, vectors, *others):
    if not vectors.isfinite().all():
        others[-1].fill_(1)
