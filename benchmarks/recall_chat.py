"""What a chat still knows at its end of what it was told at its beginning.

A conversation by the model's own template, turn by turn, through the engine's `Conversation`: past
turns are thinned out at the beginning of the next one, once they take what a preset promises of a
longer text. Facts are told in the first turn; then the user asks for sums, with answers that are
scripted, so that every preset has the same conversation; at the end each fact is asked for, and the
conversation goes back to before the question. Recall is relative to preset `off`; what the model
answers without the conversation is not asked. Sums are what this model can hear 49 of and still
know most of the facts: after as many lines of a book it knows next to none, with any cache. Prints
a table and writes JSON; runs add up.

    python benchmarks/recall_chat.py
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recall import PRESETS, load_float32, setting  # noqa: E402
from recall_summary import OURS, WHOLE, open_results, print_summary, write_results  # noqa: E402
from recall_tasks import Fact, needles  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.cache import CompressedCache  # noqa: E402
from nexusquant.chat_config import chat_config  # noqa: E402
from nexusquant.config import PROMISED_FROM  # noqa: E402
from nexusquant.engine import (  # noqa: E402
    Conversation,
    Finished,
    FinishReason,
    Generator,
    LoadedModel,
    TextDelta,
)

NUM_TURNS = (50,)
PROMISED_FACTORS = {"high": 10, "balanced": 17, "max": 33}
"""By what presets divide the bytes of a text of `PROMISED_FROM` tokens or more."""
LARGEST = 40
"""Of the numbers that are added up."""
_REMEMBER = "I will remember this:"


@dataclass(frozen=True)
class Turn:
    """What is said, and what is answered."""

    user: str
    assistant: str


class Scripted(Generator):
    """Answers with `script`, while it has one; what it says enters the cache like a question."""

    script: str | None = None

    def generate(
        self,
        token_ids: Sequence[int],
        cache: CompressedCache,
        params: nexusquant.SamplingParams,
        asked: float | None = None,
    ) -> Iterator:
        """See `Generator.generate`."""
        if self.script is None:
            yield from super().generate(token_ids, cache, params, asked)
            return
        yield from self.prefill(token_ids, cache)
        answer_ids = self._loaded.tokenizer(self.script, add_special_tokens=False)["input_ids"]
        yield from self.prefill(answer_ids, cache)
        yield TextDelta(self.script)
        # the token that ends an answer is read with the next question
        yield Finished(FinishReason.END, None, (*answer_ids, min(self._loaded.end_ids)))


class Chat:
    """A conversation whose answers are known beforehand.

    Args:
        loaded: The model, with its profile.
        config: What to compress.
    """

    def __init__(self, loaded: LoadedModel, config: nexusquant.CompressionConfig) -> None:
        self.conversation = Conversation(loaded, chat_config(config))
        self.messages: list[dict[str, str]] = []
        self._loaded = loaded
        self._scripted = self.conversation._generator = Scripted(loaded)

    def say(self, turn: Turn) -> None:
        """One more turn of the script."""
        self._scripted.script = turn.assistant
        self._reply(turn.user, "", 1)
        self._scripted.script = None
        self.messages += [_message("user", turn.user), _message("assistant", turn.assistant)]

    def knows(self, fact: Fact) -> bool:
        """Ask for a fact, and forget that it was asked for."""
        question = fact.question.split("?")[0] + "?"
        lead = fact.question.removeprefix(question).strip()
        num_tokens = len(self._loaded.tokenizer(f" {fact.answer}")["input_ids"])
        asked = f"I told you to remember this. {question}"
        answer = self._reply(asked, f"I remember this: {lead}", num_tokens)
        return bool(re.match(rf"\s*{re.escape(fact.answer)}\b", answer))

    def _reply(self, user: str, lead: str, num_tokens: int) -> str:
        prompt = self._loaded.tokenizer.apply_chat_template(
            [*self.messages, _message("user", user)], tokenize=False, add_generation_prompt=True
        )
        params = nexusquant.SamplingParams(max_new_tokens=num_tokens, temperature=0)
        events = self.conversation.reply(prompt + lead, params)
        return "".join(event.text for event in events if isinstance(event, TextDelta))


def main() -> None:
    """Talk, ask, and write what was known."""
    options = _options()
    loaded = load_float32(options.data_dir, options.device)
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    loaded = replace(loaded, profile=profile)
    told = setting("recall_chat", loaded, loaded.context_length)
    told["chats"] = {
        name: asdict(chat_config(nexusquant.PRESETS[name])) for name in (WHOLE, *PRESETS)
    }
    results = open_results(options.out, told)
    done = {(row["num_turns"], row["seed"]) for row in results["rows"]}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for num_turns in options.turns or NUM_TURNS:
            if (num_turns, seed) not in done:
                rng = random.Random(f"chat {num_turns} {seed}")
                facts = needles(rng)
                script = make_script(facts, num_turns, rng)
                results["rows"].append(_measure(loaded, script, facts, seed))
                write_results(options.out, results)
    write_results(options.out, results)
    print_summary(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--turns", action="append", type=int, help=f"instead of {NUM_TURNS}")
    add("--seeds", type=int, default=16, help="conversations of each length")
    add("--first-seed", type=int, default=0)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "recall_chat.json")
    add("--data-dir", type=Path, default=Path("data"))
    return parser.parse_args()


def make_script(facts: Sequence[Fact], num_turns: int, rng: random.Random) -> list[Turn]:
    """A conversation that begins with the facts and goes on with sums."""
    told = " ".join(fact.sentence for fact in facts)
    turns = [Turn(f"Please remember this: {told}", f"{_REMEMBER} {told}")]
    while len(turns) < num_turns:
        one, other = rng.randrange(2, LARGEST), rng.randrange(2, LARGEST)
        answer = f"{one} plus {other} is {one + other}."
        turns.append(Turn(f"What is {one} plus {other}?", answer))
    return turns


def _measure(loaded: LoadedModel, script: Sequence[Turn], facts: Sequence[Fact], seed: int) -> dict:
    """The same conversation with every preset."""
    started = time.perf_counter()
    guessing = Chat(loaded, nexusquant.PRESETS["off"])
    asked = [fact for fact in facts if not guessing.knows(fact)]
    row = {
        "task": f"chat of {len(script)} turns",
        "num_turns": len(script),
        "seed": seed,
        "num_questions": len(asked),
        "num_guessed": len(facts) - len(asked),
    }
    found, known = _talk(loaded, "off", script, asked)
    row |= {"num_tokens": found["num_tokens"], "uncompressed": sum(known), "methods": {}}
    for preset in (WHOLE, *PRESETS):
        found, answers = _talk(loaded, preset, script, asked)
        both = sum(map(min, known, answers))
        row["methods"][f"{OURS} {preset}"] = {**found, "found_of_uncompressed": both}
    print(row["task"], seed, f"{time.perf_counter() - started:.0f} s", row, flush=True)
    return row


def _talk(
    loaded: LoadedModel, preset: str, script: Sequence[Turn], facts: Sequence[Fact]
) -> tuple[dict, list[bool]]:
    """What a conversation held at its end, and which facts it knew then."""
    chat = Chat(loaded, nexusquant.PRESETS[preset])
    usages = []
    for turn in script:
        chat.say(turn)
        usages.append(chat.conversation.usage())
    known = [chat.knows(fact) for fact in facts]
    return {
        "found": sum(known),
        "factor": round(usages[-1].compression_factor, 3),
        "stored_bytes": usages[-1].stored_bytes,
        "num_tokens": usages[-1].num_seen_tokens,
        "kept_share": round(usages[-1].kept_share, 4),
        "most_of_budget": _most_of_budget(preset, usages),
    }, known


def _most_of_budget(preset: str, usages: Sequence[nexusquant.CacheUsage]) -> float | None:
    """The most bytes that a conversation ever took, as a share of what its preset promises.

    The promise is a factor from so many tokens on; a shorter conversation may take as much.
    """
    if preset not in PROMISED_FACTORS:
        return None
    factor, used = PROMISED_FACTORS[preset], 0.0
    for usage in usages:
        promised = usage.uncompressed_bytes * max(1, PROMISED_FROM / usage.num_seen_tokens) / factor
        used = max(used, usage.stored_bytes / promised)
    return round(used, 4)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    main()
