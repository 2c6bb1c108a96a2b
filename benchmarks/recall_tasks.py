"""Long texts with facts hidden in them, and questions about those facts.

Knows texts and tokens. Must not know caches. Every question is the beginning of a sentence that the
model would go on with the answer; facts are told once, somewhere in prose or speeches.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
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
    """

    task: str
    ids: torch.Tensor
    questions: Sequence[Question]


@dataclass(frozen=True)
class Fact:
    """A sentence to hide, the question for it, and what to expect."""

    sentence: str
    question: str
    answer: str


_FACTS = json.loads((Path(__file__).parent / "recall_facts.json").read_text(encoding="utf-8"))
_NUM_FACTS = {"needles": 8, "same sentence": 8, "key-value": 16}


def _needles(rng: random.Random) -> list[Fact]:
    """Every fact is a sentence of its own kind."""
    facts = []
    for kind in rng.sample(_FACTS["needles"], _NUM_FACTS["needles"]):
        lead, answer = kind["sentence"].removesuffix(" {}"), rng.choice(kind["answers"])
        facts.append(Fact(f"{lead} {answer}.", f"{kind['question']} {lead}", answer))
    return facts


def _same_sentence(rng: random.Random) -> list[Fact]:
    """All facts are one sentence about different people: each distracts from the others."""
    count = _NUM_FACTS["same sentence"]
    pairs = zip(
        rng.sample(_FACTS["people"], count), rng.sample(_FACTS["words"], count), strict=True
    )
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
    words = [rng.choice(_FACTS["words"]) for _ in keys]
    return [
        Fact(f"Register entry {key} holds {word}.", f"Register entry {key} holds", word)
        for key, word in zip(keys, words, strict=True)
    ]


TASKS: dict[str, Callable[[random.Random], list[Fact]]] = {
    "needles": _needles,
    "same sentence": _same_sentence,
    "key-value": _key_value,
}


def make_context(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    hay: Sequence[int],
    num_tokens: int,
    seed: int,
) -> Context:
    """Hide the facts of a task in a piece of text.

    Args:
        task: A name in `TASKS`.
        tokenizer: The model's.
        hay: Tokens of a long text; a piece of it is taken.
        num_tokens: Length of the result, T.
        seed: The same seed, the same context.
    """

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rng = random.Random(f"{task} {seed}")
    facts = TASKS[task](rng)
    needles = [ids_of(f"\n\n{fact.sentence}\n\n") for fact in facts]
    room = num_tokens - sum(map(len, needles))
    start = rng.randrange(len(hay) - room)
    piece = hay[start : start + room]
    places = sorted(rng.sample(range(room // 50, room - room // 50), len(needles)))
    ids: list[int] = []
    for begin, end, needle in zip([0, *places], places, needles, strict=False):
        ids += [*piece[begin:end], *needle]
    ids += piece[places[-1] :]
    questions = [
        Question(tuple(ids_of(f"\n\n{fact.question}")), tuple(ids_of(f" {fact.answer}")))
        for fact in facts
    ]
    return Context(task, torch.tensor([ids]), questions)
