"""The measurement of recall measures what it says, on a model small enough to check it by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from recall_manual import completions
from recall_protocol import CodedText, answered, ask, held_vectors
from recall_summary import summary
from recall_tasks import Question
from tiny_models import VOCABULARY, llama

import nexusquant
from nexusquant.engine.prefill import prefill_chunks
from nexusquant.eviction import select_kept

CONFIG = nexusquant.PRESETS["high"]
TEXT = torch.randint(VOCABULARY, (1, 400), generator=torch.Generator().manual_seed(0))
QUESTIONS = (Question((5, 6, 7), ()), Question((8, 9, 10, 11, 12), ()))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return llama()


@pytest.fixture(scope="module")
def profile(model) -> nexusquant.ModelProfile:
    return nexusquant.build_profile(model, token_ids=TEXT)


@pytest.fixture(scope="module")
def reading(model, profile) -> nexusquant.CompressedCache:
    cache = nexusquant.CompressedCache(model, CONFIG, profile)
    for _ in prefill_chunks(model, TEXT, cache):
        pass
    return cache


@pytest.fixture(scope="module")
def coded(reading) -> CodedText:
    return CodedText(reading, [layer.codec for layer in reading.layers])


def held(cache: nexusquant.CompressedCache) -> list:
    return [held_vectors(layer) for layer in cache.layers]


def random_scores(reading: nexusquant.CompressedCache) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(2, len(reading.waiting_tokens())) for _ in reading.layers]


def test_an_exact_cache_answers_what_greedy_decoding_writes(model, reading) -> None:
    written = answered(model, held(reading), TEXT.shape[1], QUESTIONS, 6)
    for question in written:
        ids = torch.cat([TEXT, torch.tensor([question.ids])], dim=1)
        out = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert out[0, ids.shape[1] :].tolist() == list(question.answer_ids)
    assert ask(model, held(reading), TEXT.shape[1], written) == [[True] * 6] * 2


def test_a_wrong_token_is_the_only_one_that_does_not_count(model, reading) -> None:
    (written, _) = answered(model, held(reading), TEXT.shape[1], QUESTIONS, 2)
    first, last = written.answer_ids
    wrong = Question(written.ids, (first, (last + 1) % VOCABULARY))
    assert ask(model, held(reading), TEXT.shape[1], [wrong]) == [[True, False]]


def test_what_is_held_after_a_choice_is_what_the_cache_itself_attends_to(
    model, reading, coded
) -> None:
    scores = random_scores(reading)
    held, usage = coded.compress(scores, CONFIG.eviction)
    cache = copy.deepcopy(reading)
    eviction = CONFIG.eviction
    shares = (eviction.keep_ratio, eviction.head_floor, eviction.newest_share)
    pair_bytes = [layer.codec.pair_bytes for layer in cache.layers]
    kept = select_kept(scores, *shares, pair_bytes)
    for layer, mask in zip(cache.layers, kept, strict=True):
        layer.commit(mask)
    assert usage == cache.usage()
    (one, _) = answered(model, held, TEXT.shape[1], QUESTIONS, 1)
    with torch.no_grad():
        logits = model(torch.tensor([one.ids]), past_key_values=cache, use_cache=True).logits
    assert logits[0, -1].argmax() == one.answer_ids[0]
    # the reading can be compressed again
    assert reading.layers[0].kept.num_tokens == 0


def test_more_is_kept_until_the_bytes_are_used(reading, coded) -> None:
    scores = random_scores(reading)
    usage = coded.compress(scores, CONFIG.eviction)[1]
    wanted = round(1.05 * usage.stored_bytes)
    assert wanted <= coded.compress(scores, CONFIG.eviction, wanted)[1].stored_bytes
    assert coded.compress(None, None)[1].kept_share == 1


def test_a_sentence_is_completed_by_a_word_that_stands_nowhere_else() -> None:
    text = (
        "Some words before it. The first argument of every function that reads a table is its "
        "location, and so on. The second argument of every function that reads a table is a "
        "name, and so on. See the location and the name.\n\nAnd the end of it is cut"
    )
    assert completions(text) == []
    lead = "The first argument of every function that reads a table is its"
    assert completions(text.replace("See the location", "See it")) == [(lead, "location")]


def row(counts: dict[str, int], num_found: int) -> dict:
    methods = {name: {"found": found, "factor": 10.0} for name, found in counts.items()}
    questions = {"num_questions": 8, "uncompressed": num_found}
    return {"task": "needles", "methods": methods, **questions}


def test_differences_are_paired_and_relative_to_what_was_found_uncompressed() -> None:
    names = ("reconstruction safe", "reconstruction max", "snapkv max")
    counts: Sequence[tuple[int, ...]] = ((8, 7, 5), (2, 1, 0))
    rows = [row(dict(zip(names, found, strict=True)), found[0]) for found in counts]
    lines = {line["method"]: line for line in summary(rows)}
    assert lines["reconstruction max"]["recall"] == 0.8
    assert lines["reconstruction max"]["lost_to_eviction"]["mean"] == 0.2
    # 2 of 8 more in one text, 1 of 2 in the other: whichever texts are drawn
    assert lines["snapkv max"]["ours_more"] == {"mean": 0.3, "low": 0.25, "high": 0.5}
    assert lines["snapkv max"]["num_questions"] == 16


def test_questions_of_several_tasks_are_added_up_and_those_by_tokens_are_not() -> None:
    name = "reconstruction max"
    rows = [
        {**row({name: found}, 8), "task": task}
        for task, found in (("needles", 6), ("manual", 2), ("summary", 8))
    ]
    found = {line["task"]: (line["recall"], line["num_questions"]) for line in summary(rows)}
    assert found["all of these"] == (0.5, 16)
    assert "all of these" not in {line["task"] for line in summary(rows[:1] + rows[2:])}
