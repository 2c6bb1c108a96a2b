"""Counting: the plan never promises more than the prompt takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from transformers import AutoTokenizer

from nexusquant.documents import Document, Page, count_pages, extract, plan_fit
from nexusquant.documents.prompt import build_prompt
from nexusquant.engine.chat_template import ChatTemplate
from nexusquant.engine.default_model import default_model_dir
from nexusquant.errors import CacheStateError


def document_of(*texts: str) -> Document:
    pages = tuple(Page(number, text) for number, text in enumerate(texts, start=1))
    return Document(name="a.txt", kind="text", pages=pages, sha256="")


def test_pages_are_counted_one_by_one(engine) -> None:
    counts = count_pages(engine, document_of("one two three", "", "four"))
    assert [(c.number, c.num_tokens, c.num_characters) for c in counts] == [
        (1, 3, 13),
        (2, 0, 0),
        (3, 1, 4),
    ]


@pytest.mark.parametrize("room", [0, 1, 30, 10_000])
def test_fitting_pages_are_counted_from_the_first_chosen_one(room: int) -> None:
    document = document_of(*["word " * 100] * 5)
    numbers = (2, 3, 4, 5)
    engine = ScriptedEngine(context_length=10**6)
    counts = count_pages(engine, document)
    needed = [plan_fit(engine, counts, numbers[:n]).num_tokens for n in range(5)]
    assert needed == sorted(needed)
    for num_fitting in range(5):
        engine = ScriptedEngine(context_length=needed[num_fitting] + min(room, 99))
        fit = plan_fit(engine, counts, numbers)
        assert (fit.num_pages_that_fit, fit.fits) == (num_fitting, num_fitting == 4)
        assert fit.num_tokens == needed[4]
        assert fit.capacity_tokens == needed[num_fitting] + min(room, 99)


def test_answer_takes_the_room_it_is_given(engine) -> None:
    counts = count_pages(engine, document_of("text"))
    short = plan_fit(engine, counts, [1], answer_tokens=100).num_tokens
    assert plan_fit(engine, counts, [1], answer_tokens=700).num_tokens == short + 600


def test_without_a_model_nothing_is_planned(engine) -> None:
    counts = count_pages(engine, document_of("text"))
    engine.info = None
    with pytest.raises(CacheStateError, match="No model is loaded"):
        plan_fit(engine, counts, [1])


class SmolEngine(ScriptedEngine):
    """The scripted engine with the real tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        super().__init__(context_length=8192)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._template = ChatTemplate(self.tokenizer, "SmolLM2")

    def render(self, messages, *, add_generation_prompt, moment=None):
        return self._template.render(
            messages, add_generation_prompt=add_generation_prompt, moment=moment
        )

    def harmless(self, text, before="", after=""):
        return self._template.harmless(text, before, after)

    def count_tokens(self, text):
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)


@pytest.fixture(scope="module")
def smol_engine(data_dir: Path):
    engine = SmolEngine(default_model_dir(data_dir))
    yield engine
    engine.close()


@pytest.mark.model
def test_the_plan_is_what_the_real_prompt_takes_and_never_less(smol_engine, r_manual) -> None:
    document = extract(r_manual)
    numbers = range(1, 16)
    plan = plan_fit(smol_engine, count_pages(smol_engine, document), numbers)
    prompt = build_prompt(smol_engine, [document.pages[number - 1] for number in numbers])
    question = "word " * 63
    text = prompt.prefix + prompt.suffix(smol_engine, question)
    needed = smol_engine.count_tokens(text) + 512
    assert needed <= plan.num_tokens <= needed + 20


@pytest.mark.model
def test_three_hundred_pages_are_counted_in_seconds(smol_engine, r_manual) -> None:
    pages = extract(r_manual).pages * 3
    document = Document(name="a.pdf", kind="pdf", pages=pages[:300], sha256="")
    start = time.perf_counter()
    assert sum(count.num_tokens for count in count_pages(smol_engine, document)) > 100_000
    # a few times the usual, as the machine may be busy
    assert time.perf_counter() - start < 10
