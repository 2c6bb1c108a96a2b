"""What a second reading finds: the most attention that every waiting pair gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import read
from second_reading import REREADING, document, filled, reread, stretches
from transformers import DynamicCache

from nexusquant import QuantConfig
from nexusquant.errors import CacheStateError

NUM_TOKENS, NUM_SINKS, RECENT = 300, 4, 32


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def scores_of(model, config):
    cache = filled(model, config)
    reread(model, cache, document)
    return cache._evictor.reread.scores()


@torch.no_grad()
def test_scores_are_the_most_attention_in_a_forward_that_sees_sinks_and_stretch(model):
    actual = scores_of(model, REREADING)
    whole = DynamicCache(config=model.config)
    read(model, whole, document)
    for stretch in stretches(range(NUM_SINKS, NUM_TOKENS - RECENT)):
        visible = [*range(NUM_SINKS), *stretch]
        past = DynamicCache(config=model.config)
        for index, layer in enumerate(whole.layers):
            past.update(layer.keys[:, :, visible], layer.values[:, :, visible], index)
        reader = tiny_models.llama()
        reader.set_attn_implementation("eager")
        positions = torch.arange(NUM_TOKENS, NUM_TOKENS + len(stretch)).unsqueeze(0)
        ids = document[:, stretch.start : stretch.stop]
        output = reader(ids, past_key_values=past, position_ids=positions, output_attentions=True)
        columns = slice(stretch.start - NUM_SINKS, stretch.stop - NUM_SINKS)
        for scores, weights in zip(actual, output.attentions, strict=True):
            best = weights[0, :, :, NUM_SINKS : len(visible)].amax(dim=1).view(2, 2, -1).amax(dim=1)
            torch.testing.assert_close(scores[:, columns], best, rtol=1e-3, atol=1e-5)


def test_a_span_coded_early_scores_nearly_as_an_exact_one(model):
    fine = replace(REREADING, quant=QuantConfig(key_bits=4, value_bits=4))
    exact = torch.stack(scores_of(model, fine))
    early = torch.stack(scores_of(model, replace(fine, exact_prefill_tokens=100)))
    assert not torch.equal(early, exact)
    assert float((early - exact).abs().mean()) < 0.1 * float(exact.mean())
    assert float((early - exact).abs().max()) < 0.15
    assert 0 <= float(early.min()) <= float(early.max()) <= 1


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("size", [66, 33])
@torch.no_grad()
def test_stretches_of_a_batch_score_as_one_by_one(family, size, monkeypatch):
    # heads of one stretch and of the next are looked at together
    monkeypatch.setattr("nexusquant.cache.rereading.REREAD_BYTES", 3 * 10**5)
    model = {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID}[family]()
    found = []
    for at_once in (1, 2, 4):
        cache = filled(model)
        parts = stretches(cache.waiting_tokens(), size)
        assert len({len(part) for part in parts}) == 1
        for first in range(0, len(parts), at_once):
            batch = parts[first : first + at_once]
            ids = torch.cat([document[:, part.start : part.stop] for part in batch])
            with cache.rereading(batch):
                model(ids, past_key_values=cache)
        found.append(torch.stack(cache._evictor.reread.scores()))
    assert found[0].max() > 1.5 * found[0].min() > 0
    for scores in found[1:]:
        torch.testing.assert_close(scores, found[0], rtol=1e-4, atol=1e-6)


def test_stretches_of_two_lengths_or_out_of_order_are_no_batch(model):
    cache = filled(model)
    first, second, third = stretches(cache.waiting_tokens())[:3]
    for batch in ([first, third], [second], [first, range(second.start, second.stop - 1)]):
        with pytest.raises(CacheStateError, match="ones that wait begin at"):
            cache.rereading(batch).__enter__()


def test_beginning_again_is_in_order(model):
    cache = filled(model)
    reread(model, cache, document, count=2)
    reread(model, cache, document)
    expected = scores_of(model, REREADING)
    actual = cache._evictor.reread.scores()
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_a_forward_that_failed_has_read_nothing(model):
    cache = filled(model)
    *others, last = stretches(cache.waiting_tokens())
    reread(model, cache, document, count=len(others))

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"), cache.rereading([last]):
        read(model, cache, document[:, last.start : last.stop])
    hook.remove()
    assert not cache._evictor.has_scores
    with cache.rereading([last]):
        read(model, cache, document[:, last.start : last.stop])
    expected = scores_of(model, REREADING)
    actual = cache._evictor.reread.scores()
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))
