"""Long texts, and questions about what they say.

Knows texts and tokens. Must not know caches. In most tasks facts are told once, somewhere in prose
or speeches, and every question is the beginning of a sentence that the model would go on with the
answer. A manual is asked about as it stands (`recall_manual.py`), and a plain text is summed up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from recall_manual import completions
from recall_summary import SUMMARY
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """What is fed after the text, and what the model has to go on with; token ids."""

    ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Context:
    """A text with facts in it.

    Args:
        task: Name of its task.
        ids: The text. [1, T], int64.
        questions: About its facts.
        is_open: True where any answer will do: the measure is then the uncompressed model's own,
            token by token.
    """

    task: str
    ids: torch.Tensor
    questions: Sequence[Question]
    is_open: bool = False


@dataclass(frozen=True)
class Fact:
    """A sentence to hide, the question for it, and what to expect."""

    sentence: str
    question: str
    answer: str


FACTS = json.loads((Path(__file__).parent / "recall_facts.json").read_text(encoding="utf-8"))
_NUM_FACTS = {"needles": 8, "same sentence": 8, "key-value": 16}
MANUAL = "manual"
_NUM_COMPLETIONS = 24
_SUMMARY_LEADS = (
    "\n\nSummary of the text above:",
    "\n\nIn short, the text above is about",
    "\n\nThe main points of the text above are:\n1.",
)


def needles(rng: random.Random, count: int = _NUM_FACTS["needles"]) -> list[Fact]:
    """Every fact is a sentence of its own kind."""
    facts = []
    for kind in rng.sample(FACTS["needles"], count):
        lead, answer = kind["sentence"].removesuffix(" {}"), rng.choice(kind["answers"])
        facts.append(Fact(f"{lead} {answer}.", f"{kind['question']} {lead}", answer))
    return facts


def _same_sentence(rng: random.Random) -> list[Fact]:
    """All facts are one sentence about different people: each distracts from the others."""
    count = _NUM_FACTS["same sentence"]
    pairs = zip(rng.sample(FACTS["people"], count), rng.sample(FACTS["words"], count), strict=True)
    return [
        Fact(
            f"The favourite animal of {who} is the {what}.",
            f"What is the favourite animal of {who}? The favourite animal of {who} is the",
            what,
        )
        for who, what in pairs
    ]


def _key_value(rng: random.Random) -> list[Fact]:
    """Lines of a register: an arbitrary key and an arbitrary word."""
    count = _NUM_FACTS["key-value"]
    keys = rng.sample(range(100, 1000), count)
    words = [rng.choice(FACTS["words"]) for _ in keys]
    return [
        Fact(f"Register entry {key} holds {word}.", f"Register entry {key} holds", word)
        for key, word in zip(keys, words, strict=True)
    ]


_FACT_TASKS: dict[str, Callable[[random.Random], list[Fact]]] = {
    "needles": needles,
    "same sentence": _same_sentence,
    "key-value": _key_value,
}
TASKS = (*_FACT_TASKS, MANUAL, SUMMARY)


def make_context(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    hay: Sequence[int],
    num_tokens: int,
    seed: int,
) -> Context:
    """Make a text and its questions.

    Args:
        task: A name in `TASKS`.
        tokenizer: The model's.
        hay: Tokens of a long text, for `MANUAL` of a manual; a piece of it is taken.
        num_tokens: Length of the result, T.
        seed: The same seed, the same context.
    """

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def question_of(question: str, answer: str = "") -> Question:
        return Question(tuple(ids_of(question)), tuple(ids_of(answer)))

    rng = random.Random(f"{task} {seed}")
    if task in _FACT_TASKS:
        facts = _FACT_TASKS[task](rng)
        ids = _hide([ids_of(f"\n\n{fact.sentence}\n\n") for fact in facts], hay, num_tokens, rng)
        questions = [question_of(f"\n\n{fact.question}", f" {fact.answer}") for fact in facts]
        return Context(task, torch.tensor([ids]), questions)
    ids = _piece(hay, num_tokens, rng)
    if task == SUMMARY:
        open_questions = [question_of(lead) for lead in _SUMMARY_LEADS]
        return Context(task, torch.tensor([ids]), open_questions, is_open=True)
    found = completions(tokenizer.decode(ids))
    chosen = rng.sample(found, min(_NUM_COMPLETIONS, len(found)))
    questions = [question_of(f"\n\n{lead}", f" {word}") for lead, word in chosen]
    return Context(task, torch.tensor([ids]), questions)


def _piece(hay: Sequence[int], num_tokens: int, rng: random.Random) -> list[int]:
    start = rng.randrange(len(hay) - num_tokens)
    return list(hay[start : start + num_tokens])


def _hide(
    hidden: Sequence[Sequence[int]], hay: Sequence[int], num_tokens: int, rng: random.Random
) -> list[int]:
    """A piece of the hay with sentences put between its tokens, at places by chance."""
    room = num_tokens - sum(map(len, hidden))
    piece = _piece(hay, room, rng)
    places = sorted(rng.sample(range(room // 50, room - room // 50), len(hidden)))
    ids: list[int] = []
    for begin, end, sentence in zip([0, *places], places, hidden, strict=False):
        ids += [*piece[begin:end], *sentence]
    return [*ids, *piece[places[-1] :]]
