"""An engine without a model for the documents' tests: a word is a token, answers are scripted.

The queue is the real one; `prompts` and `caches` show what a conversation was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from nexusquant.cache.usage import CacheUsage
from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams, ScorerName
from nexusquant.engine import (
    Event,
    Job,
    Message,
    ModelInfo,
    Order,
    PrefillProgress,
    RereadProgress,
    TextDelta,
    Worker,
)

TOKEN = re.compile(r"\s*\S+|\s+")
CHUNK = 10


class ScriptedEngine:
    def __init__(self, context_length: int = 4096, answer: Sequence[str] = ("", " 2,", " yes.")):
        self.info: ModelInfo | None = ModelInfo(
            name="scripted",
            context_length=context_length,
            num_parameters=1,
            weight_bytes=1,
            num_layers=1,
            num_kv_heads=1,
            head_dim=8,
            device="cpu",
            device_name="none",
            dtype="float32",
        )
        self.answer = answer
        self.conversations: list[ScriptedConversation] = []
        # called before every chunk, so that a test can hold the engine's thread there
        self.before_chunk: Callable[[], object] = lambda: None
        self._worker = Worker()

    def submit(self, work: Callable[[], Iterator[Event]], order: Order | None = None) -> Job:
        return self._worker.submit(work, order)

    def new_conversation(
        self, config: CompressionConfig, scaling: RopeScaling | None = None
    ) -> ScriptedConversation:
        self.conversations.append(ScriptedConversation(self, config))
        return self.conversations[-1]

    def scalings_for(self, num_tokens: int) -> tuple[RopeScaling, ...]:
        return (RopeScaling.for_length(num_tokens, self.info.context_length),)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        moment: datetime | None = None,
    ) -> str:
        text = "<s>" + "".join(f"<|{m.role}|>\n{m.content.strip()}<|end|>\n" for m in messages)
        return text + ("<|assistant|>\n" if add_generation_prompt else "")

    def harmless(self, text: str, before: str = "", after: str = "") -> str:
        return re.sub(r"<\|(\w+)\|>", r"<| \1 |>", text)

    def count_tokens(self, text: str) -> int:
        return len(TOKEN.findall(text))

    def token_offsets(self, text: str) -> list[int]:
        return [match.start() for match in TOKEN.finditer(text)]

    def close(self) -> None:
        self._worker.close()


class ScriptedConversation:
    def __init__(self, engine: ScriptedEngine, config: CompressionConfig) -> None:
        self._engine = engine
        self._eviction = config.eviction
        self.cached = ""
        self.prompts: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self.is_closed = False

    def read(self, text: str) -> Iterator[Event]:
        total = self._engine.count_tokens(text)
        for done in [*range(CHUNK, total, CHUNK), total]:
            self._engine.before_chunk()
            yield PrefillProgress(done, total, done / 100)
        if self._eviction and self._eviction.scorer is ScorerName.RECONSTRUCTION:
            self._engine.before_chunk()
            yield RereadProgress(total, total, total / 100)
        self.cached = text

    def reply(self, text: str, sampling: SamplingParams, pinned_text: str = "") -> Iterator[Event]:
        self.prompts.append(text)
        yield PrefillProgress(1, 1, 0.1)
        for part in self._engine.answer:
            yield TextDelta(part)

    def usage(self) -> CacheUsage:
        seen = self._engine.count_tokens(self.cached)
        return CacheUsage(seen, 4 * seen, seen, seen, seen, 0, 0.0, ())

    def kept_shares(self, token_ranges: Sequence[tuple[int, int]]) -> list[float]:
        self.ranges = list(token_ranges)
        return [1 / (index + 1) for index in range(len(self.ranges))]

    def close(self) -> None:
        self.is_closed = True
