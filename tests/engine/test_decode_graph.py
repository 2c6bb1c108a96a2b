"""Steps over buffers, done without a graph: the same tokens and the same cache as plain steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny_models
import torch
from transformers import PreTrainedModel

import nexusquant
from nexusquant.cache import CompressedCache, steps_problem
from nexusquant.cache.layer_steps import LayerSteps
from nexusquant.config import (
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    SamplingParams,
    ScorerName,
)
from nexusquant.engine.decode_graph import DecodeGraph
from nexusquant.engine.decoding import Decoder, RecordingTrial
from nexusquant.engine.prefill import forward
from nexusquant.engine.sampling import Sampler

GREEDY = SamplingParams(temperature=0, max_new_tokens=300)
SAFE = CompressionConfig(quant=QuantConfig(), num_sink_tokens=4, recent_window=32)
EVICTING = replace(
    SAFE, eviction=EvictionConfig(keep_ratio=0.35, scorer=ScorerName.SNAPKV, min_span=64)
)
CONFIGS = {
    "safe": SAFE,
    "evicting": EVICTING,
    "no sinks": replace(SAFE, num_sink_tokens=0),
    "stretched keys": replace(SAFE, quant=QuantConfig(key_stretch=1.1)),
}
document = tiny_models.token_ids(200)
question = tiny_models.token_ids(9, seed=2)


class AnyDevice(RecordingTrial):
    """Has buffers used on a CPU too, where nothing is recorded."""

    def problem_with(self, cache: CompressedCache, device: torch.device) -> str | None:
        return self.problem or steps_problem(cache.layers)


class Plain(RecordingTrial):
    def problem_with(self, cache: CompressedCache, device: torch.device) -> str | None:
        return "not wanted"


def profile_of(model: PreTrainedModel):
    return nexusquant.build_profile(model, token_ids=tiny_models.token_ids(300, seed=9))


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


@pytest.fixture(scope="module")
def profile(model):
    return profile_of(model)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def answer(
    model: PreTrainedModel,
    cache: CompressedCache,
    trial: RecordingTrial,
    num_new: int,
    params: SamplingParams = GREEDY,
    *,
    most: int | None = None,
) -> list[int]:
    """Read the question, then take `num_new` tokens of an answer of at most `most`."""
    logits = forward(model, question, cache)
    cache.finish_prefill()
    sampler = Sampler(params, question[0].tolist(), logits.device)
    decoder = Decoder(model, cache, sampler, logits, most or num_new, trial)
    new = [decoder.next_id() for _ in range(num_new)]
    decoder.close()
    return new


def content(cache: CompressedCache) -> list[torch.Tensor]:
    """Everything a cache holds of its tokens, page by page in order."""
    found = []
    for layer in cache.layers:
        found += [*layer.sinks, *layer.recent, torch.tensor(layer.pages.lengths)]
        found.append(layer.kept.mask(len(layer.pages.lengths), torch.device("cpu")))
        least = min(layer.pages.lengths)
        for pool in layer.pages.read([0] * len(layer.pages.lengths), least):
            found += pool
    return found


def assert_same(one: CompressedCache, other: CompressedCache) -> None:
    assert one.num_seen_tokens == other.num_seen_tokens
    for here, there in zip(content(one), content(other), strict=True):
        if here.dtype == torch.uint8:
            # sums in blocks of another size move single codes
            assert (here == there).float().mean() > 0.98
        else:
            torch.testing.assert_close(here, there, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("num_new", [1, 64, 140])
def test_tokens_and_cache_are_those_of_plain_steps(model, profile, config, num_new) -> None:
    caches = [nexusquant.prefill(model, document, config, profile=profile) for _ in range(2)]
    expected = answer(model, caches[0], Plain(), num_new)
    assert answer(model, caches[1], AnyDevice(), num_new) == expected
    assert_same(*caches)
    assert caches[0].usage() == caches[1].usage()


def test_a_token_started_ahead_is_forgotten(model, profile, config) -> None:
    caches = [nexusquant.prefill(model, document, config, profile=profile) for _ in range(2)]
    for num_new in (3, 62, 65):
        expected = answer(model, caches[0], Plain(), num_new, most=300)
        assert answer(model, caches[1], AnyDevice(), num_new, most=300) == expected
    assert_same(*caches)
    assert caches[0].usage() == caches[1].usage()


def test_rewinding_comes_back_to_the_moment_before_the_steps(model, profile) -> None:
    cache = nexusquant.prefill(model, document, EVICTING, profile=profile)
    mark = cache.mark()
    first = answer(model, cache, AnyDevice(), 100)
    cache.rewind(mark)
    assert answer(model, cache, AnyDevice(), 100) == first
    cache.rewind(mark)
    assert answer(model, cache, Plain(), 100) == first


def test_steps_after_steps_go_on_with_the_text(model, profile) -> None:
    caches = [nexusquant.prefill(model, document, EVICTING, profile=profile) for _ in range(2)]
    for num_new in (70, 20, 90):
        expected = answer(model, caches[0], Plain(), num_new)
        assert answer(model, caches[1], AnyDevice(), num_new) == expected


@pytest.mark.parametrize("num_prompt", [2, 20, 60])
def test_a_short_text_without_pages_gets_its_sinks_and_pages(model, profile, num_prompt) -> None:
    caches = [CompressedCache(model, SAFE, profile) for _ in range(2)]
    for cache in caches:
        forward(model, document[:, :num_prompt], cache)
    expected = answer(model, caches[0], Plain(), 150)
    assert answer(model, caches[1], AnyDevice(), 150) == expected
    assert_same(*caches)


def test_new_buffers_are_made_when_the_reserved_pages_are_full(
    model, profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusquant.cache.steps.MOST_AHEAD", 64)
    caches = [nexusquant.prefill(model, document, EVICTING, profile=profile) for _ in range(2)]
    expected = answer(model, caches[0], Plain(), 140)
    assert answer(model, caches[1], AnyDevice(), 140) == expected
    assert_same(*caches)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, seed=5, max_new_tokens=80),
        SamplingParams(temperature=0.7, top_k=20, top_p=0.9, seed=5, max_new_tokens=80),
        SamplingParams(temperature=0, repetition_penalty=1.3, max_new_tokens=80),
    ],
    ids=["temperature", "top-k and top-p", "penalty"],
)
def test_sampling_draws_the_same(model, profile, params: SamplingParams) -> None:
    caches = [nexusquant.prefill(model, document, SAFE, profile=profile) for _ in range(2)]
    expected = answer(model, caches[0], Plain(), 80, params)
    assert answer(model, caches[1], AnyDevice(), 80, params) == expected


def test_a_narrow_model_and_large_key_biases_decode_the_same() -> None:
    for made in (lambda: tiny_models.llama(dtype=torch.bfloat16), lambda: tiny_models.qwen2(12.0)):
        model = made()
        profile = profile_of(model)
        caches = [nexusquant.prefill(model, document, SAFE, profile=profile) for _ in range(2)]
        ids = tiny_models.token_ids(90, seed=4)
        logits = forward(model, question, caches[0])
        sampler = Sampler(GREEDY, [1], logits.device)
        forward(model, question, caches[1])
        caches[1].finish_prefill()
        graph = DecodeGraph(model, caches[1], sampler, ids[:, :1], 90)
        for index in range(90):
            forward(model, ids[:, index : index + 1], caches[0])
            graph.make_room()
            graph.token.copy_(ids[:, index : index + 1])
            graph.run()
        graph.close()
        for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
            assert one.num_recent == other.num_recent
            for here, there in zip(one.recent, other.recent, strict=True):
                torch.testing.assert_close(here, there, rtol=0.05, atol=0.05)


def refusal(
    make: Callable[[], PreTrainedModel], config: nexusquant.CompressionConfig
) -> str | None:
    model = make()
    cache = nexusquant.prefill(model, document, config)
    return steps_problem(cache.layers)


def test_caches_that_cannot_stand_still_say_why() -> None:
    assert "sliding" in refusal(tiny_models.gemma3, SAFE)
    assert "not compressed" in refusal(tiny_models.llama, nexusquant.PRESETS["off"])
    short = CompressedCache(tiny_models.llama(), SAFE)
    assert "not measured" in steps_problem(short.layers)
    assert refusal(tiny_models.llama, SAFE) is None
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, SAFE)
    forward(model, question, cache)
    assert "not read to its end" in steps_problem(cache.layers)


def test_a_step_that_fails_is_done_plainly_and_never_tried_again(model, profile) -> None:
    caches = [nexusquant.prefill(model, document, SAFE, profile=profile) for _ in range(2)]
    expected = answer(model, caches[0], Plain(), 90)
    trial, calls = AnyDevice(), []

    def fail_in_the_third_step(module, arguments, options):
        calls.append(options.get("position_ids") is not None)
        if len(calls) == 3:
            raise RuntimeError("operation not permitted when stream is capturing\nsome more")

    logits = forward(model, question, caches[1])
    caches[1].finish_prefill()
    hook = model.register_forward_pre_hook(fail_in_the_third_step, with_kwargs=True)
    decoder = Decoder(model, caches[1], Sampler(GREEDY, [1], logits.device), logits, 90, trial)
    tokens = [decoder.next_id() for _ in range(90)]
    decoder.close()
    hook.remove()
    assert tokens == expected
    assert calls[:4] == [True, True, True, False]
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert decoder.problem == trial.problem == reason
    assert_same(*caches)
    assert trial.problem_with(caches[1], logits.device) == reason


def test_a_page_that_fails_halfway_is_told_and_undone_by_rewinding(
    model, profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = nexusquant.prefill(model, document, SAFE, profile=profile)
    mark = cache.mark()
    expected = answer(model, cache, AnyDevice(), 80)
    cache.rewind(mark)
    turn_page, turned = LayerSteps.turn_page, []

    def fail_in_the_second_layer(steps: LayerSteps, *given: object) -> None:
        turned.append(steps)
        if len(turned) == 2:
            raise torch.OutOfMemoryError("no room")
        turn_page(steps, *given)

    with monkeypatch.context() as patch:
        patch.setattr(LayerSteps, "turn_page", fail_in_the_second_layer)
        with pytest.raises(torch.OutOfMemoryError):
            answer(model, cache, AnyDevice(), 80)
    cache.rewind(mark)
    assert answer(model, cache, AnyDevice(), 80) == expected


def test_numbers_that_cannot_be_coded_are_no_problem_of_the_recording(
    model, profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusquant.cache.steps.MOST_AHEAD", 64)
    cache = nexusquant.prefill(model, document, SAFE, profile=profile)
    mark, trial = cache.mark(), AnyDevice()
    expected = answer(model, cache, trial, 140)
    cache.rewind(mark)
    calls = []

    # in the second page, which is coded when the buffers are exchanged
    def go_wrong_once(module, arguments, output):
        calls.append(output)
        return output * torch.nan if len(calls) == 60 else output

    hook = model.model.layers[0].self_attn.k_proj.register_forward_hook(go_wrong_once)
    with pytest.raises(ValueError, match="NaN"):
        answer(model, cache, trial, 140)
    hook.remove()
    assert trial.problem is None
    cache.rewind(mark)
    assert answer(model, cache, trial, 140) == expected


def test_usage_counts_the_buffers_while_they_are_there(model, profile) -> None:
    cache = nexusquant.prefill(model, document, SAFE, profile=profile)
    before = cache.usage()
    sampler = Sampler(GREEDY, [1], torch.device("cpu"))
    graph = DecodeGraph(model, cache, sampler, torch.tensor([[1]]), 100)
    assert dict(cache.usage().bytes_by_part)["buffers of the answer"] > 0
    assert cache.usage().num_seen_tokens == before.num_seen_tokens
    graph.close()
    assert cache.usage() == before
