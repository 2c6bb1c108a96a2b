"""An engine without a model: the queue and the chat are real, only the tokens are scripted.

Knows the surface of `nexusquant.engine.Engine`; must not need weights, a device or a network.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from nexusquant.cache.usage import CacheUsage
from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams, ScorerName
from nexusquant.engine import (
    Event,
    Finished,
    FinishReason,
    GenerationStats,
    Job,
    LoadProgress,
    MemoryReading,
    Message,
    ModelInfo,
    ModelOnDisk,
    Order,
    PrefillProgress,
    PresetReport,
    RereadProgress,
    SelfTestProgress,
    SelfTestReport,
    TextDelta,
    Worker,
)
from nexusquant.errors import ContextLengthError, OutOfMemoryError

NUM_HEADS = 8
PAIR_BYTES = 2 * 64 * 2
TOKEN = re.compile(r"\s*\S+")

FAKE_MODEL = ModelInfo(
    name="Scripted-1B",
    context_length=2048,
    num_parameters=1_000_000_000,
    weight_bytes=2_000_000_000,
    num_layers=1,
    num_kv_heads=NUM_HEADS,
    head_dim=64,
    device="cpu",
    device_name="Test processor",
    dtype="float32",
    notes=("No GPU was found: running on the processor.",),
)


def fake_report(**kls: float) -> SelfTestReport:
    """Figures of a model on which `max` is unsafe; `kls` replaces the KL of presets by name."""
    figures = {
        "safe": (6.94, 0.0061, 0.0083, 0.971),
        "high": (9.87, 0.0112, 0.0204, 0.955),
        "balanced": (15.93, 0.0287, 0.0412, 0.934),
        "max": (28.41, 0.1208, 0.4127, 0.811),
    }
    presets = [
        PresetReport(name, factor, kls.get(name, kl), kls.get(name, recall), top1)
        for name, (factor, kl, recall, top1) in figures.items()
    ]
    return SelfTestReport(presets, num_prefix_tokens=1536, num_compared_tokens=384)


@dataclass
class Script:
    """What the fake model does; tests change it between turns.

    Args:
        answer: The words of an answer, made from the prompt text and the cache's config.
        token_delay_s: Seconds for each new token.
        chunk_delay_s: Seconds for each chunk of the prompt.
        chunk_tokens: Tokens in a chunk.
        load_delay_s: Seconds for each of the ten steps of loading a model.
        test_delay_s: Seconds for each preset of the self-test.
        report: What the self-test finds.
        is_report_kept: Whether it stands on disk when a model is loaded.
        fail_next: Raised by the next reply, read or test after its first step, then forgotten.
    """

    answer: Callable[[str, CompressionConfig], str]
    token_delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    chunk_tokens: int = 64
    load_delay_s: float = 0.0
    test_delay_s: float = 0.0
    report: SelfTestReport = field(default_factory=fake_report)
    is_report_kept: bool = False
    fail_next: Exception | None = None


def numbered_words(_prompt: str, _config: CompressionConfig) -> str:
    """Twelve words that show where a stream was cut."""
    return "one two three four five six seven eight nine ten eleven twelve"


class FakeEngine:
    """The surface of Engine over a scripted model.

    Args:
        script: What the model says and how fast.
        is_loaded: False starts without a model, as the real engine does.

    Attributes:
        num_overlaps: Times that two generators of one owner ran at once; it must stay 0.
        prompts: The text of every reply, in order.
        num_tests: Self-tests begun so far.
        on_disk: What needs no network.
    """

    def __init__(self, script: Script | None = None, *, is_loaded: bool = True) -> None:
        self.script = script or Script(numbered_words)
        self.info: ModelInfo | None = FAKE_MODEL if is_loaded else None
        self.report: SelfTestReport | None = None
        self.scaled_reports: dict[RopeScaling, SelfTestReport] = {}
        self.num_overlaps = self.num_tests = 0
        self.prompts: list[str] = []
        self.on_disk: tuple[ModelOnDisk, ...] = ()
        self._worker, self._tester = Worker(), Worker()
        self._busy: set[str] = set()

    @property
    def waiting(self) -> int:
        return self._worker.num_waiting

    @property
    def is_idle(self) -> bool:
        return not self._busy and not self.waiting

    has_gpu = True

    def room_bytes(self) -> tuple[int, ...]:
        held = self.info.weight_bytes if self.info else 0
        return (self.memory().device_free_bytes + held,)

    def models_on_disk(self) -> tuple[ModelOnDisk, ...]:
        return self.on_disk

    def load(
        self,
        name: str | None = None,
        dtype: str | None = None,
        *,
        token: str | None = None,
        offload: bool | None = None,
    ) -> Job:
        self.loaded_dtype, self.used_token, self.may_offload = dtype, token, offload
        return self.submit(lambda: self._load(name), Order(is_alone=True))

    def submit(self, work: Callable[[], Iterator[Event]], order: Order | None = None) -> Job:
        owner = order.owner if order else ""
        return self._worker.submit(lambda: self._watched(work, owner), order)

    @property
    def num_waiting(self) -> int:
        return self._worker.num_waiting

    def report_for(self, scaling: RopeScaling | None) -> SelfTestReport | None:
        return self.report if scaling is None else self.scaled_reports.get(scaling)

    def self_test(self, scaling: RopeScaling | None = None) -> Job:
        """Runs beside the queue: who gives way to whom is the real worker's business."""
        self.num_tests += 1
        return self._tester.submit(lambda: self._test(scaling))

    def new_conversation(
        self, config: CompressionConfig, scaling: RopeScaling | None = None
    ) -> FakeConversation:
        return FakeConversation(self, config, scaling)

    def scalings_for(self, num_tokens: int) -> tuple[RopeScaling, ...]:
        trained = self.info.context_length
        return (RopeScaling.for_length(num_tokens, trained),) if num_tokens > trained else ()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        moment: datetime | None = None,
    ) -> str:
        text = "".join(f"<{m.role}> {m.content} </{m.role}>\n" for m in messages)
        return text + ("<assistant> " if add_generation_prompt else "")

    def harmless(self, text: str, before: str = "", after: str = "") -> str:
        return text

    def count_tokens(self, text: str) -> int:
        return len(TOKEN.findall(text))

    def token_offsets(self, text: str) -> list[int]:
        return [match.start() for match in TOKEN.finditer(text)]

    def memory(self) -> MemoryReading:
        return MemoryReading("Test processor", 16_000_000_000, 6_000_000_000, 2_500_000_000)

    def close(self) -> None:
        self._worker.close()
        self._tester.close()

    def _load(self, name: str | None) -> Iterator[Event]:
        for step in range(10):
            time.sleep(self.script.load_delay_s)
            yield LoadProgress(f"Reading weights, part {step + 1} of 10", (step + 1) / 10)
        if name == "missing/model":
            raise ValueError("missing/model is neither a folder nor a known model.")
        self.info = replace(FAKE_MODEL, name=name or FAKE_MODEL.name)
        self.report = self.script.report if self.script.is_report_kept else None
        self.scaled_reports = {}
        return self.info

    def _test(self, scaling: RopeScaling | None) -> Iterator[Event]:
        presets = [measured.preset for measured in self.script.report.presets]
        for done, preset in enumerate(presets):
            yield SelfTestProgress(preset, done, len(presets))
            began = time.monotonic()
            # a test that changes the script need not wait for the end of this preset
            while time.monotonic() - began < self.script.test_delay_s:
                time.sleep(0.01)
            self.fail_if_scripted()
        if scaling is None:
            self.report = self.script.report
            return self.report
        self.scaled_reports[scaling] = replace(self.script.report, scaling=str(scaling))
        return self.scaled_reports[scaling]

    def fail_if_scripted(self) -> None:
        error, self.script.fail_next = self.script.fail_next, None
        if error is not None:
            raise error

    def _watched(self, work: Callable[[], Iterator[Event]], owner: str) -> Iterator[Event]:
        self.num_overlaps += owner in self._busy
        self._busy.add(owner)
        try:
            return (yield from work())
        finally:
            self._busy.discard(owner)


class FakeConversation:
    """A conversation whose cache is a count of tokens; `usage` follows from the config."""

    def __init__(
        self, engine: FakeEngine, config: CompressionConfig, scaling: RopeScaling | None = None
    ) -> None:
        self.config, self.scaling = config, scaling
        self.is_closed = False
        self._engine = engine
        self._text = ""
        self._pinned = ""

    @property
    def num_tokens(self) -> int:
        return self._engine.count_tokens(self._text)

    def read(self, text: str) -> Iterator[Event]:
        self._pinned = self._text = ""
        yield from self._prefill(text)
        self._pinned = self._text = text

    def reply(self, text: str, sampling: SamplingParams, pinned_text: str = "") -> Iterator[Event]:
        self._engine.prompts.append(text)
        start = self._text if text.startswith(self._text) else ""
        start = start or (self._pinned if text.startswith(self._pinned) else "")
        began = time.monotonic()
        yield from self._prefill(text[len(start) :])
        self._text = text
        num_new = 0
        for word in self._words(text, sampling):
            time.sleep(self._engine.script.token_delay_s)
            num_new += 1
            self._text += word
            yield TextDelta(word)
        yield Finished(FinishReason.END, self._stats(text[len(start) :], num_new, began))

    def usage(self) -> CacheUsage:
        return fake_usage(self.num_tokens, self.config)

    def kept_shares(self, token_ranges: Sequence[tuple[int, int]]) -> list[float]:
        keep = self.config.eviction.keep_ratio if self.config.eviction else 1.0
        return [min(1.0, keep * (0.5 + (i % 3) / 2)) for i, _ in enumerate(token_ranges)]

    def save(self, path: Path) -> None:
        path.write_text(self._text)

    def restore(self, path: Path, text: str) -> None:
        self._text = self._pinned = text

    def close(self) -> None:
        self.is_closed = True

    def _words(self, text: str, sampling: SamplingParams) -> list[str]:
        answer = self._engine.script.answer(text, self.config)
        return re.findall(r"\s*\S+\s*?", answer)[: sampling.max_new_tokens]

    def _prefill(self, text: str) -> Iterator[Event]:
        total = self._engine.count_tokens(text)
        self._check_fits(total)
        yield from self._chunks(total, PrefillProgress)
        yield from self._chunks(self._num_reread(total), RereadProgress)

    def _chunks(
        self, total: int, progress: type[PrefillProgress] | type[RereadProgress]
    ) -> Iterator[Event]:
        began, chunk = time.monotonic(), self._engine.script.chunk_tokens
        # as many steps as it takes, and none for nothing
        for done in range(chunk, total + chunk, chunk):
            time.sleep(self._engine.script.chunk_delay_s)
            yield progress(min(done, total), total, time.monotonic() - began)
            self._engine.fail_if_scripted()

    def _num_reread(self, num_tokens: int) -> int:
        """Tokens of a read that are read again; 0 when they are too few, as in the real engine."""
        eviction = self.config.eviction
        if eviction is None or eviction.scorer is not ScorerName.RECONSTRUCTION:
            return 0
        waiting = num_tokens - self.config.num_sink_tokens - self.config.recent_window
        return waiting if waiting >= eviction.min_span else 0

    def _check_fits(self, num_tokens: int) -> None:
        factor = self.scaling.factor if self.scaling else 1
        context = round(self._engine.info.context_length * factor)
        if num_tokens > context:
            raise ContextLengthError(
                f"The prompt has {num_tokens} tokens; the model's context holds {context}.",
                num_tokens=num_tokens,
                context_length=context,
                offers=self._engine.scalings_for(num_tokens),
            )

    def _stats(self, read: str, num_new: int, began: float) -> GenerationStats:
        elapsed = max(time.monotonic() - began, 1e-3)
        num_read = self._engine.count_tokens(read)
        return GenerationStats(
            num_prompt_tokens=num_read,
            num_new_tokens=num_new,
            ttft_s=elapsed / 2,
            prefill_tok_s=num_read / elapsed,
            decode_tok_s=num_new / elapsed,
            usage=self.usage(),
            memory=self._engine.memory(),
        )


def fake_usage(num_tokens: int, config: CompressionConfig) -> CacheUsage:
    """Figures of the right proportions for `num_tokens` under `config`."""
    num_pairs = num_tokens * NUM_HEADS
    keep = config.eviction.keep_ratio if config.eviction else 1.0
    kept = round(num_pairs * keep)
    bits = (config.quant.key_bits + config.quant.value_bits) / 2 + 0.25 if config.quant else 16.0
    stored = round(kept * PAIR_BYTES * bits / 16) + 1024
    return CacheUsage(
        stored_bytes=stored,
        uncompressed_bytes=num_pairs * PAIR_BYTES,
        num_seen_tokens=num_tokens,
        num_stored_pairs=kept,
        num_seen_pairs=num_pairs,
        num_quantized_pairs=kept if config.quant else 0,
        bits_per_value=bits,
        bytes_by_part=(("codes", stored - 1024), ("tables", 1024)),
    )


def out_of_memory() -> OutOfMemoryError:
    """The error the real engine raises when the device is full."""
    return OutOfMemoryError("The device ran out of memory at token 64 of 512.")
