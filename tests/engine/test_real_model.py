"""The embedded model end to end: equality with the plain cache, bytes, a chat, a document."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

import nexusquant
from nexusquant.config import PRESETS, SamplingParams
from nexusquant.documents import DocumentSession, extract
from nexusquant.engine import ChatSession, Engine, Job, JobState, LoadedModel, TextDelta

pytestmark = pytest.mark.model
GREEDY = SamplingParams(max_new_tokens=40, temperature=0)


@pytest.fixture(scope="module")
def engine(data_dir: Path) -> Iterator[Engine]:
    engine = Engine(data_dir, device="cpu")
    job = engine.load()
    assert job.wait(120)
    assert job.state is JobState.DONE, job.error
    yield engine
    engine.close()


def answer(job: Job) -> str:
    text = "".join(e.text for batch in job.batches() for e in batch if isinstance(e, TextDelta))
    assert job.state is JobState.DONE, job.error
    return text


def prompt_ids(smollm: LoadedModel, text: str) -> torch.Tensor:
    rendered = smollm.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return smollm.tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids


def test_uncompressed_text_equals_dynamic_cache_over_200_tokens(smollm: LoadedModel) -> None:
    ids = prompt_ids(smollm, "Write a long story about a lighthouse keeper.")
    options = {"do_sample": False, "max_new_tokens": 200, "min_new_tokens": 200}
    expected = smollm.model.generate(
        ids, past_key_values=DynamicCache(config=smollm.model.config), **options
    )
    cache = nexusquant.CompressedCache(smollm.model, PRESETS["off"])
    got = smollm.model.generate(ids, past_key_values=cache, **options)
    assert got.shape[1] == ids.shape[1] + 200
    assert torch.equal(got, expected)


def test_once_it_was_measured_it_is_ready_in_under_three_seconds(engine: Engine) -> None:
    # the engine of these tests has loaded it before
    begun = time.perf_counter()
    job = engine.load()
    assert job.wait(60)
    assert job.state is JobState.DONE, job.error
    assert time.perf_counter() - begun < 3


def test_a_chat_of_three_turns_stays_on_one_cache_and_makes_sense(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"])
    assert "Paris" in answer(chat.send("What is the capital of France?", GREEDY))
    assert "Rome" in answer(chat.send("And what is the capital of Italy?", GREEDY))
    # the first question is out of reach for a model that lost its cache
    assert "France" in answer(chat.send("Repeat my first question.", GREEDY))
    seen = [turn.usage.num_seen_tokens for turn in chat.turns]
    read = [turn.num_prompt_tokens for turn in chat.turns]
    assert seen[0] < seen[1] < seen[2]
    assert read[2] < seen[1]


def test_a_real_manual_is_read_once_and_answers_with_a_page(engine: Engine, r_manual: Path) -> None:
    session = DocumentSession(engine, extract(r_manual), range(7, 10), PRESETS["safe"])
    reading = session.read()
    assert reading.wait(240)
    assert reading.state is JobState.DONE, reading.error
    held = session.usage()
    first = answer(session.ask("What is R?", GREEDY))
    assert session.cited_pages(first)
    assert "R is" in first or "environment" in first
    # rewound: the same question gets the same answer, and the document is as it was
    assert answer(session.ask("What is R?", GREEDY)) == first
    assert session.usage().num_seen_pairs >= held.num_seen_pairs
    session.close()
