from __future__ import annotations

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, decode, read

import nexusquant
from nexusquant import CacheStateError, CompressedCache

CASES = {
    "off": (tiny_models.llama, OFF),
    "off, sliding": (tiny_models.gemma3, OFF),
    "safe": (tiny_models.llama, SAFE),
    "evicting": (tiny_models.llama, EVICTING),
    "evicting, bfloat16": (lambda: tiny_models.llama(dtype=torch.bfloat16), EVICTING),
    "evicting, sliding": (tiny_models.gemma3, EVICTING),
}

document = tiny_models.token_ids(200)
question = tiny_models.token_ids(9, seed=2)
long_question = tiny_models.token_ids(180, seed=3)
answer = tiny_models.token_ids(140, seed=4)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def model(case):
    return case[0]()


@pytest.fixture
def config(case):
    return case[1]


def is_paged(layer):
    return getattr(layer, "pages", None) is not None


def turn(model, cache, num_new=3):
    """A question and an answer, as logits."""
    return torch.cat([read(model, cache, question), decode(model, cache, answer[:, :num_new])])


def test_the_same_turn_after_rewind_gives_the_same_logits_bit_for_bit(model, config):
    cache = nexusquant.prefill(model, document, config)
    mark = cache.mark()
    first = turn(model, cache, 75)
    cache.rewind(mark)
    assert cache.num_seen_tokens == 200
    assert torch.equal(turn(model, cache, 75), first)


def test_rewinding_over_several_page_flushes_gives_the_same_logits():
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, EVICTING)
    mark = cache.mark()
    before = cache.usage().num_quantized_pairs
    first = turn(model, cache, 140)
    # two times 64 generated tokens, and the question's and the window's before them
    assert cache.usage().num_quantized_pairs == before + (9 + 128) * 4
    for _ in range(2):
        cache.rewind(mark)
        assert torch.equal(turn(model, cache, 140), first)


def test_a_turn_that_evicts_leaves_no_trace(model, config):
    cache = nexusquant.prefill(model, document, config)
    mark = cache.mark()
    first = turn(model, cache)
    cache.rewind(mark)
    read(model, cache, long_question)
    decode(model, cache, answer[:, :5])
    cache.rewind(mark)
    assert torch.equal(turn(model, cache), first)


def test_a_marked_cache_equals_one_that_was_never_marked(model, config):
    plain = nexusquant.prefill(model, document, config)
    marked = nexusquant.prefill(model, document, config)
    mark = marked.mark()
    read(model, marked, long_question)
    marked.rewind(mark)
    assert torch.equal(turn(model, marked), turn(model, plain))


def test_nested_marks_come_back_from_the_inner_to_the_outer(model, config):
    cache = CompressedCache(model, config)
    empty = cache.mark()
    read(model, cache, document)
    outer = cache.mark()
    after_outer = read(model, cache, long_question)
    inner = cache.mark()
    after_inner = turn(model, cache)
    cache.rewind(inner)
    assert torch.equal(turn(model, cache), after_inner)
    cache.rewind(inner)
    cache.rewind(outer)
    assert torch.equal(read(model, cache, long_question), after_outer)
    cache.rewind(empty)
    assert cache.num_seen_tokens == 0
    read(model, cache, document)
    # the mark closed the span at its first time: so does the first decode step now
    cache.finish_prefill()
    assert torch.equal(read(model, cache, long_question), after_outer)


def test_a_mark_between_decode_steps_restores_the_recent_window(model, config):
    cache = nexusquant.prefill(model, document, config)
    decode(model, cache, answer[:, :20])
    mark = cache.mark()
    first = decode(model, cache, answer[:, 20:70])
    cache.rewind(mark)
    assert torch.equal(decode(model, cache, answer[:, 20:70]), first)


def evicting_turn(model, cache):
    return torch.cat([read(model, cache, long_question), decode(model, cache, answer[:, :3])])


def test_rewinding_drops_an_unfinished_span(model, config):
    cache = nexusquant.prefill(model, document, config)
    mark = cache.mark()
    first = evicting_turn(model, cache)
    # an open span that began at the mark, and one that began later
    for num_before in (0, 40):
        cache.rewind(mark)
        read(model, cache, torch.cat([answer[:, :num_before], question], dim=1))
        if num_before:
            cache.finish_prefill()
            read(model, cache, long_question)
        cache.rewind(mark)
        assert torch.equal(evicting_turn(model, cache), first)


def test_a_mark_before_anything_was_coded_comes_back(model, config):
    cache = nexusquant.prefill(model, document[:, :20], config)
    mark, size = cache.mark(), cache.usage().stored_bytes
    first = evicting_turn(model, cache)
    cache.rewind(mark)
    # pages stay for later use; all else is as it was
    codes = dict(cache.usage().bytes_by_part).get("codes", 0)
    tables = sum(layer.pages.page_table.nbytes for layer in cache.layers if is_paged(layer))
    assert cache.usage().stored_bytes == size + codes + tables
    assert torch.equal(evicting_turn(model, cache), first)


def test_a_forward_that_failed_halfway_is_undone(model, config):
    cache = nexusquant.prefill(model, document, config)
    mark = cache.mark()
    first = turn(model, cache)
    cache.rewind(mark)

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        read(model, cache, long_question)
    hook.remove()
    cache.rewind(mark)
    assert torch.equal(turn(model, cache), first)


def test_reset_is_as_good_as_new(model, config):
    cache = nexusquant.prefill(model, document, config)
    first = turn(model, cache)
    cache.reset()
    assert cache.num_seen_tokens == 0
    read(model, cache, document)
    cache.finish_prefill()
    assert torch.equal(turn(model, cache), first)


def test_marks_of_another_cache_are_refused():
    model = tiny_models.llama()
    one, other = (nexusquant.prefill(model, document, SAFE) for _ in range(2))
    with pytest.raises(CacheStateError, match="not one of this cache"):
        one.rewind(other.mark())


def test_a_mark_later_than_the_rewind_is_refused():
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, SAFE)
    early = cache.mark()
    read(model, cache, question)
    late = cache.mark()
    cache.rewind(early)
    with pytest.raises(CacheStateError, match="rewound to before it"):
        cache.rewind(late)


def test_a_discarded_mark_is_refused_even_at_the_same_length():
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, SAFE)
    early = cache.mark()
    read(model, cache, question)
    late = cache.mark()
    cache.rewind(early)
    read(model, cache, tiny_models.token_ids(9, seed=8))
    with pytest.raises(CacheStateError, match="rewound to before it"):
        cache.rewind(late)


def test_marks_do_not_survive_reset():
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, SAFE)
    mark = cache.mark()
    cache.reset()
    with pytest.raises(CacheStateError):
        cache.rewind(mark)


def test_cropping_is_refused():
    cache = nexusquant.prefill(tiny_models.llama(), document, SAFE)
    with pytest.raises(CacheStateError, match=r"mark\(\) and rewind\(\)"):
        cache.crop(-3)
