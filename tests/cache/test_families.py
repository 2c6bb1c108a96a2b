"""Every family reads as it does without Nexusquant, and stays near that when compressed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import OFF, decode, read
from tiny_variants import SCALED, VARIANTS
from tolerances import error
from transformers import DynamicCache

import nexusquant
from nexusquant import PRESETS, CompressedCache

KNOWN = {
    **tiny_models.FULL_ATTENTION,
    **tiny_models.HYBRID,
    "smollm": tiny_models.smollm_shaped,
}
FAMILIES = {**KNOWN, **SCALED, **VARIANTS}
# random weights cannot do without any token: more of them stay than in the preset
EVICTING = replace(PRESETS["high"], eviction=replace(PRESETS["high"].eviction, keep_ratio=0.64))
CONFIGS = {"safe": PRESETS["safe"], "evicting": EVICTING}
# of the deviation of the logits
LIMITS = {"safe": 0.2, "evicting": 0.35}
NUM_READ, CHUNK_SIZE = 600, 150

document = tiny_models.token_ids(NUM_READ)
answer = tiny_models.token_ids(40, seed=2)


@pytest.fixture(scope="module")
def own_logits():
    """What transformers itself makes of the document in chunks and the answer, by family."""
    known = {}

    def logits_of(family):
        if family not in known:
            # never a model that has read before: dynamic frequencies remember the longest text
            model = FAMILIES[family]()
            cache = DynamicCache(config=model.config)
            parts = [read(model, cache, document, CHUNK_SIZE), decode(model, cache, answer)]
            known[family] = torch.cat(parts)
        return known[family]

    return logits_of


@pytest.mark.parametrize("family", {**SCALED, **VARIANTS})
def test_with_compression_off_logits_are_those_of_transformers_bit_for_bit(family, own_logits):
    model = FAMILIES[family]()
    cache = CompressedCache(model, OFF)
    actual = [read(model, cache, document, CHUNK_SIZE), decode(model, cache, answer)]
    assert torch.equal(torch.cat(actual), own_logits(family))


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_compressed_logits_stay_near_those_of_transformers(family, name, own_logits):
    model = FAMILIES[family]()
    cache = nexusquant.prefill(model, document, CONFIGS[name])
    expected = own_logits(family)[NUM_READ:]
    distance = error(decode(model, cache, answer), expected) / float(expected.std())
    assert 0 < distance < LIMITS[name]
    usage = cache.usage()
    assert usage.num_quantized_pairs > 0
    assert (usage.kept_share < 0.75) == (name == "evicting")
