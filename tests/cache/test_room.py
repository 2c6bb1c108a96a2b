from __future__ import annotations

import pytest
import tiny_models
import torch

from nexusquant import PRESETS, CompressedCache
from nexusquant.cache.room import Room
from nexusquant.engine.prefill import prefill_chunks


def pair(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, count, dim, generator=generator) for dim in (6, 4))


def test_vectors_are_held_in_order_and_written_once():
    parts = [pair(count, count) for count in (3, 5, 1, 4)]
    room, places = Room(parts[0], 10), set()
    for number in range(1, 4):
        assert room.fits(parts[number])
        held = room.append(parts[number])
        for kind in (0, 1):
            expected = torch.cat([part[kind] for part in parts[: number + 1]], dim=1)
            assert torch.equal(held[kind], expected)
        places.add(held[0].data_ptr())
    assert len(places) == 1
    assert not room.fits(pair(1, 0))


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


@pytest.mark.filterwarnings("ignore:The text was not read again")
@pytest.mark.parametrize("preset", ["off", "safe", "balanced"])
@pytest.mark.parametrize("num_expected", [0, 700, 1500, 5000])
def test_what_is_held_does_not_depend_on_what_was_expected(model, preset, num_expected):
    ids = tiny_models.token_ids(1500)
    found = []
    for expected in (0, num_expected):
        cache = CompressedCache(model, PRESETS[preset])
        # twice: a reading that is stopped may be followed by another text
        for first, last in ((0, 1000), (1000, 1500)):
            cache.expect(expected)
            with torch.no_grad():
                for part in ids[:, first:last].split(300, dim=1):
                    model(part, past_key_values=cache)
        cache.finish_prefill()
        stored = cache.usage().stored_bytes
        with torch.no_grad():
            logits = model(ids[:, :1], past_key_values=cache).logits
        found.append((logits, stored))
    assert torch.equal(found[0][0], found[1][0])
    # without coders, what is left of the room stays until the next token comes
    assert found[0][1] == found[1][1] or (preset == "off" and num_expected > 500)


def test_nothing_waits_for_a_text_whose_reading_was_stopped(model):
    ids = tiny_models.token_ids(3000)
    for preset in ("off", "safe"):
        cache = CompressedCache(model, PRESETS[preset])
        chunks = prefill_chunks(model, ids, cache)
        next(chunks)
        chunks.close()
        mark = cache.mark()
        other = CompressedCache(model, PRESETS[preset])
        with torch.no_grad():
            model(ids[:, :512], past_key_values=other)
        other_mark = other.mark()
        assert cache.usage().stored_bytes == other.usage().stored_bytes
        assert mark.num_seen == other_mark.num_seen


def test_nothing_waits_for_a_text_that_failed_before_its_first_token(model):
    cache = CompressedCache(model, PRESETS["safe"])
    with torch.no_grad():
        model(tiny_models.token_ids(300), past_key_values=cache)
    cache.finish_prefill()

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(prefill_chunks(model, tiny_models.token_ids(3000), cache))
    hook.remove()
    before = cache.usage().stored_bytes
    with torch.no_grad():
        model(tiny_models.token_ids(1), past_key_values=cache)
    assert cache.usage().stored_bytes < before + 2000
