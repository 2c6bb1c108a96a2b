"""What each preset does to the model in use, measured on this device with a held-out text.

Knows prefill, caches and the built-in text. Must not know widgets.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple

import torch

from nexusquant.cache import PROFILE_FORMAT_VERSION, CompressedCache
from nexusquant.config import PRESETS, CompressionConfig, RopeScaling
from nexusquant.engine.events import SelfTestProgress
from nexusquant.engine.model_loader import LoadedModel
from nexusquant.engine.profiling import read_text
from nexusquant.engine.reading import read_chunks

KL_LIMIT = 0.1
"""Mean KL divergence per token, in nats, above which a preset counts as unsafe for a model."""

NUM_COMPARED = 64
"""Tokens compared after the prefix."""

LEAST_TOKENS = 512
"""Fewer tokens than these tell nothing of a preset."""

_RECALLED, _NUM_CUE = range(96, 192), 32
_FORMAT = 5

DEFAULT_PRESET = "safe"
"""The preset to begin with where nothing was measured, or nothing passes."""


@dataclass(frozen=True)
class PresetReport:
    """One preset on one model.

    Args:
        preset: Its name in `PRESETS`.
        compression_factor: Measured on the text of the test; longer texts reach more.
        kl: Mean KL divergence per token from the uncompressed model, in nats, over text that
            goes on after the prefix.
        recall_kl: The same over words that repeat an early part of the prefix: what was evicted
            shows here.
        top1_agreement: Share of all compared tokens whose likeliest next token is the same.
    """

    preset: str
    compression_factor: float
    kl: float
    recall_kl: float
    top1_agreement: float

    def is_sensible(self) -> bool:
        """Whether these can be figures: finite, and none below nothing."""
        figures = (self.compression_factor, self.kl, self.recall_kl, self.top1_agreement)
        return all(type(figure) in (int, float) and 0 <= figure < inf for figure in figures)

    @property
    def is_safe(self) -> bool:
        """True when neither divergence exceeds the limit."""
        return max(self.kl, self.recall_kl) <= KL_LIMIT


@dataclass(frozen=True)
class SelfTestReport:
    """Every preset on one model.

    Args:
        presets: In the order of `PRESETS`, without `off`.
        num_prefix_tokens: Length of the text in the cache.
        num_compared_tokens: Tokens compared after it.
        scaling: How positions were scaled, in words; empty: not at all.
    """

    presets: Sequence[PresetReport]
    num_prefix_tokens: int
    num_compared_tokens: int
    scaling: str = ""

    def of(self, preset: str) -> PresetReport | None:
        """The figures of one preset; None for one that was not measured (`off`)."""
        return next((report for report in self.presets if report.preset == preset), None)

    @property
    def best_preset(self) -> str:
        """The strongest preset that is safe for this model."""
        order = list(PRESETS)
        safe = [report.preset for report in self.presets if report.is_safe]
        return max(safe, key=order.index, default=DEFAULT_PRESET)

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            OSError: The file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = asdict(self) | {"format_version": _FORMAT, "measured_with": _measured_with()}
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(fields), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> SelfTestReport | None:
        """Read what `save` wrote; None when there is nothing, or nothing that holds any more."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            versions = (fields.pop("format_version"), fields.pop("measured_with"))
            if versions != (_FORMAT, _measured_with()):
                return None
            presets = tuple(PresetReport(**report) for report in fields.pop("presets"))
            report = cls(presets, **fields)
            return report if report.is_sensible() else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def is_sensible(self) -> bool:
        """Whether these can be figures of the presets there are: a file may say anything."""
        names = [name for name in PRESETS if name != "off"]
        numbers = (self.num_prefix_tokens, self.num_compared_tokens)
        return (
            [report.preset for report in self.presets] == names
            and all(report.is_sensible() for report in self.presets)
            and all(type(number) is int and number > 0 for number in numbers)
            and isinstance(self.scaling, str)
        )


def _measured_with() -> str:
    """A short name for what the figures depend on beside the model: presets and kind of profile."""
    settings = f"{PRESETS} {PROFILE_FORMAT_VERSION}"
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def self_test_steps(
    loaded: LoadedModel, scaling: RopeScaling | None = None
) -> Generator[SelfTestProgress, None, SelfTestReport]:
    """Measure every preset on the built-in held-out text; an event after every piece of work.

    Args:
        loaded: The model.
        scaling: How positions are scaled, in what is measured and in what it is compared with.
    """
    ids = read_text("held_out.txt", loaded.tokenizer)
    context_length = round(loaded.context_length * (scaling.factor if scaling else 1))
    ids = ids[:, : context_length - len(_RECALLED)]
    if ids.shape[1] < LEAST_TOKENS:
        raise ValueError(f"The model's context of {context_length} tokens is too short.")
    prefix, new = ids[:, :-NUM_COMPARED], ids[:, -NUM_COMPARED:]
    recalled = ids[:, _RECALLED.start : _RECALLED.stop]
    names = [name for name, config in PRESETS.items() if not config.is_off]
    text = _Text(loaded, scaling, prefix, (new, recalled))
    reference = yield from _measure(text, PRESETS["off"], _step(names, 0))
    reports = []
    for number, name in enumerate(names):
        step = _step(names, number)
        found = yield from _measure(text, PRESETS[name], step)
        reports.append(_compare(name, found, reference))
    num_compared = NUM_COMPARED + len(_RECALLED) - _NUM_CUE
    label = str(scaling) if scaling else ""
    return SelfTestReport(tuple(reports), prefix.shape[1], num_compared, label)


def _compare(preset: str, found: _Measured, reference: _Measured) -> PresetReport:
    new, recalled = zip(reference.log_probs, found.log_probs, strict=True)
    # before words can be recalled, some of them must have been read
    recalled = tuple(log_probs[_NUM_CUE:] for log_probs in recalled)
    same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in (new, recalled)])
    return PresetReport(
        preset,
        found.factor,
        _divergence(*new),
        _divergence(*recalled),
        float(same.float().mean()),
    )


class _Text(NamedTuple):
    loaded: LoadedModel
    scaling: RopeScaling | None
    prefix: torch.Tensor
    endings: tuple[torch.Tensor, torch.Tensor]


class _Measured(NamedTuple):
    factor: float
    log_probs: tuple[torch.Tensor, torch.Tensor]


def _measure(
    text: _Text, config: CompressionConfig, step: SelfTestProgress
) -> Generator[SelfTestProgress, None, _Measured]:
    """Read the prefix once, then each ending after it."""
    loaded = text.loaded
    cache = CompressedCache(loaded.model, config, loaded.profile, text.scaling)
    for _ in read_chunks(loaded.model, text.prefix, cache):
        yield step
    mark = cache.mark()
    factor = cache.usage().compression_factor
    log_probs = []
    for ending in text.endings:
        cache.rewind(mark)
        log_probs.append(_log_probs(loaded, ending, cache))
        yield step
    return _Measured(factor, tuple(log_probs))


@torch.no_grad()
def _log_probs(loaded: LoadedModel, ids: torch.Tensor, cache: CompressedCache) -> torch.Tensor:
    """Log-probabilities after each token of `ids` [1, T]. [T, vocabulary], on the CPU."""
    ids = ids.to(loaded.device)
    with cache.scaled_positions():
        output = loaded.model(input_ids=ids, past_key_values=cache, use_cache=True)
    return output.logits[0].float().log_softmax(dim=-1).cpu()


def _divergence(reference: torch.Tensor, other: torch.Tensor) -> float:
    return float((reference.exp() * (reference - other)).sum(dim=-1).mean())


def _step(names: Sequence[str], number: int) -> SelfTestProgress:
    return SelfTestProgress(names[number], number, len(names))
