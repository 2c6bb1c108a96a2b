"""Every choice a caller can make, as frozen values. Knows no torch and no other package of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

PAGE_SIZE = 64
"""Vectors in one page of packed storage."""

CODE_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Widths, in bits per value, that the E8 box code exists for."""

PROMISED_FROM = 8192
"""Tokens from which on a preset takes as little as it promises."""

LEAST_BITS, MOST_BITS = 1, 4
"""Bounds on the mean bits per value of keys and of values."""


class ScorerName(str, Enum):
    """Which rule decides what attention will not miss, with the words for it on a page.

    One file each in `eviction/`; the page and the tests of scorers go through these.
    """

    label: str

    RECONSTRUCTION = "reconstruction", "Reconstruction (reads twice)"
    """What the model looks at when it reads the text again; costs a second reading."""
    EXPECTED_ATTENTION = "expected_attention", "Expected attention"
    SNAPKV = "snapkv", "SnapKV (last queries)"
    KEY_NORM = "key_norm", "Key norm"
    STREAMING = "streaming", "Streaming (newest)"

    def __new__(cls, value: str, label: str) -> ScorerName:
        """A string with a label."""
        name = str.__new__(cls, value)
        name._value_, name.label = value, label
        return name

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """How vectors leaving the recent window are coded.

    Args:
        key_bits: Mean bits per key value over all layers, in [1, 4]; scales are extra. Layers
            and directions that matter more get more of them.
        value_bits: Mean bits per value of the values, a multiple of 0.25 in [1, 4]; scales are
            extra. With a profile, layers that matter more get more of them.
        rotation_seed: Seed of the random signs of the values' rotation.
        key_stretch: Factor on coded keys, less their mean: above 1, attention is sharper.

    Raises:
        ValueError: Bits outside their range, or a factor that is not above 0.
    """

    key_bits: float = 2.0
    value_bits: float = 2.0
    rotation_seed: int = 0
    key_stretch: float = 1.0

    def __post_init__(self) -> None:
        for name in ("key_bits", "value_bits"):
            if not LEAST_BITS <= getattr(self, name) <= MOST_BITS:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be in [{LEAST_BITS}, {MOST_BITS}]."
                )
        if self.value_bits * 4 % 1:
            raise ValueError(f"value_bits is {self.value_bits!r}; use a multiple of 0.25.")
        if type(self.rotation_seed) is not int or not 0 <= self.rotation_seed < 2**63:
            raise ValueError(
                f"rotation_seed is {self.rotation_seed!r}; use a whole number from 0 to 2**63 - 1."
            )
        if not 0 < self.key_stretch < math.inf:
            raise ValueError(f"key_stretch is {self.key_stretch!r}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class EvictionConfig:
    """How much of each new span is kept, and who chooses.

    Args:
        keep_ratio: Share of the span's key-value pairs to keep, in (0, 1]; of their bytes, where
            layers have more bits than others. Sinks and the recent window are kept besides.
        scorer: The rule that ranks pairs.
        head_floor: Share of its equal part of the budget that every head is sure of, in [0, 1].
            0 lets all heads and layers compete freely; 1 gives each the same count.
        newest_share: Share of the budget for the span's newest tokens, in all heads, in [0, 1].
        observation_window: Newest queries of the span that scorers may look at, in tokens.
        min_span: Spans with fewer tokens to choose from are kept whole: questions are not thinned.
        keeps_up_to: While a cache holds no more tokens, in the mean over heads, all may stay.
        settle_span: Tokens of past turns that are decided on together, at least; 0: `min_span`.
        reserve: Tokens, in the mean over heads, that less is kept of a text than `keep_ratio`
            says, from `PROMISED_FROM` tokens on, and in proportion of a shorter one.

    Raises:
        ValueError: A share outside its range.
    """

    keep_ratio: float
    scorer: ScorerName = ScorerName.RECONSTRUCTION
    head_floor: float = 0.2
    newest_share: float = 0.3
    observation_window: int = 256
    min_span: int = 256
    keeps_up_to: int = 0
    settle_span: int = 0
    reserve: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorer", _scorer(self.scorer))
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is {self.keep_ratio!r}; it is a share in (0, 1].")
        for name in ("head_floor", "newest_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is a share in [0, 1].")
        for name in ("observation_window", "min_span", "keeps_up_to", "settle_span", "reserve"):
            least = 1 if name in ("observation_window", "min_span") else 0
            _check_count(name, getattr(self, name), least)

    def share_of(self, start: int, stop: int) -> float:
        """Share to keep of these tokens: a quarter of `keep_ratio` at least, for any reserve."""
        if not self.reserve:
            return self.keep_ratio
        # the reserve is that of the first tokens; those after them need none of their own
        num_first = min(stop, PROMISED_FROM) - min(start, PROMISED_FROM)
        less = self.reserve / PROMISED_FROM * num_first / max(1, stop - start)
        return max(round(self.keep_ratio - less, 4), self.keep_ratio / 4)


def _check_count(name: str, count: object, least: int) -> None:
    if not isinstance(count, int) or not least <= count < 2**62:
        raise ValueError(f"{name} is {count!r}; use a whole number of tokens, {least} or more.")


def _scorer(name: str) -> ScorerName:
    try:
        return ScorerName(name)
    except ValueError:
        known = ", ".join(ScorerName)
        raise ValueError(f"scorer is {name!r}; choose one of {known}.") from None


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """What a `CompressedCache` does to the keys and values it is given.

    Args:
        quant: Codes for old vectors, or None to keep them in the model's precision.
        eviction: What to remove, or None to keep every token.
        num_sink_tokens: First tokens of the text: never evicted, kept in 16 bits.
        recent_window: Newest tokens: never evicted, kept in 16 bits.
        exact_prefill_tokens: Most tokens that are held in full precision while a text is read, so
            that scoring and coding see exact vectors; a longer one is read in blocks. Under a
            plain `generate()` it is coded as it comes.

    Raises:
        ValueError: Eviction without codes, or a negative count.
    """

    quant: QuantConfig | None = None
    eviction: EvictionConfig | None = None
    num_sink_tokens: int = 4
    recent_window: int = 4
    exact_prefill_tokens: int = 32_768

    def __post_init__(self) -> None:
        if self.eviction is not None and self.quant is None:
            raise ValueError(
                "eviction needs packed pages: set quant as well, or leave eviction out."
            )
        for name in ("num_sink_tokens", "recent_window"):
            _check_count(name, getattr(self, name), 0)
        _check_count("exact_prefill_tokens", self.exact_prefill_tokens, 1)

    @property
    def is_off(self) -> bool:
        """True when keys and values are kept exactly as the model made them."""
        return self.quant is None

    def reads_twice(self, num_tokens: int) -> bool:
        """True when a text of so many tokens is read again to see what can go."""
        eviction = self.eviction
        if eviction is None or eviction.scorer is not ScorerName.RECONSTRUCTION:
            return False
        return num_tokens - self.num_sink_tokens - self.recent_window >= eviction.min_span


class RopeScalingKind(str, Enum):
    """How positions beyond the trained length are brought back into it."""

    YARN = "yarn"
    """Slow rotations are slowed down, fast ones stay (arXiv 2309.00071)."""
    DYNAMIC = "dynamic"
    """All are slowed down by a larger base, the slow ones most; the base is that of the length."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Positions of one text, scaled so that a model reads beyond the length it was trained on.

    Args:
        kind: How.
        factor: Times the trained length; above 1. Larger ones cost exactness in every answer.

    Raises:
        ValueError: A factor that is not above 1.
    """

    kind: RopeScalingKind = RopeScalingKind.YARN
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", RopeScalingKind(self.kind))
        if not self.factor > 1:
            raise ValueError(f"factor is {self.factor!r}; it must be above 1.")

    def __str__(self) -> str:
        return f"{self.kind}, factor {self.factor:g}"

    @classmethod
    def for_length(
        cls, num_tokens: int, trained_length: int, kind: RopeScalingKind = RopeScalingKind.YARN
    ) -> RopeScaling:
        """The least scaling, in halves, that holds `num_tokens`.

        Args:
            num_tokens: Tokens of the text, more than `trained_length`.
            trained_length: Tokens that the model was trained on.
            kind: How.
        """
        return cls(kind=kind, factor=math.ceil(2 * num_tokens / trained_length) / 2)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen.

    Args:
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 takes the likeliest token; above it, sampling.
        top_p: Smallest set of likeliest tokens whose probability reaches this, in (0, 1].
        top_k: Likeliest tokens to choose from; 0 means all.
        min_p: Drops tokens below this share of the likeliest one's probability, in [0, 1).
        repetition_penalty: Above 1 makes tokens already used less likely.
        seed: Same seed, same text; None draws a new one.
        stop: Texts that end the answer; they are not part of it.

    Raises:
        ValueError: A value outside its range.
    """

    max_new_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("min_p", 0 <= self.min_p < 1, "in [0, 1)"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        )
        for name, holds, allowed in checks:
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty text, which would end every answer at once.")


def _evicting(key_bits: float, value_bits: float, keep_ratio: float) -> CompressionConfig:
    quant = QuantConfig(key_bits=key_bits, value_bits=value_bits)
    return CompressionConfig(quant=quant, eviction=EvictionConfig(keep_ratio=keep_ratio))


PRESETS: Mapping[str, CompressionConfig] = MappingProxyType(
    {
        "off": CompressionConfig(),
        "safe": CompressionConfig(quant=QuantConfig(), num_sink_tokens=16, recent_window=16),
        "high": _evicting(3.5, 3.5, keep_ratio=0.4),
        "balanced": _evicting(2.5, 2.5, keep_ratio=0.328),
        "max": _evicting(2.0, 2.5, keep_ratio=0.172),
    }
)
"""Ready-made configs; change one with `dataclasses.replace`. `off` is the reference."""
