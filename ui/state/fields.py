"""Settings made of what stands in the page's fields, and the most that a field may say.

Knows the engine's settings and their limits. Must not know widgets, or whose settings they are.
"""

from __future__ import annotations

from nexusquant.config import (
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    SamplingParams,
    ScorerName,
)

MAX_NEW_TOKENS = 16_384
"""One answer may keep the model from everybody else for so long, and no longer."""

MAX_EXACT_TOKENS = 4096
"""First or newest tokens that are kept in 16 bits; more of them would be no compression."""

MAX_MESSAGE_CHARACTERS = 2_000_000
"""A long book. Splitting more into tokens would keep the engine from everybody for seconds."""

MAX_STOPS = 16
MAX_STOP_LENGTH = 200
_SEEDS = range(-(2**63), 2**63)


def message_of(text: object) -> str:
    """What is written in an input, without blanks around it; empty if there is nothing.

    Raises:
        ValueError: It is too long; the message says what to do.
    """
    message = _text(text).strip()
    if len(message) > MAX_MESSAGE_CHARACTERS:
        raise ValueError(
            f"A message can have {MAX_MESSAGE_CHARACTERS:,} characters at most; this one has "
            f"{len(message):,}. Put it into a file and open that in Documents."
        )
    return message


def own_sampling(
    temperature: float,
    top_p: float,
    top_k: float,
    min_p: float,
    repetition_penalty: float,
    max_new_tokens: float,
    seed: str,
    stop: str,
) -> SamplingParams:
    """How answers are drawn, by the values in the fields.

    Raises:
        ValueError: A value outside its range; the message names it.
    """
    stops = tuple(line for line in _text(stop).splitlines() if line)
    if len(stops) > MAX_STOPS or any(len(line) > MAX_STOP_LENGTH for line in stops):
        raise ValueError(
            f"There can be at most {MAX_STOPS} texts that end an answer, of {MAX_STOP_LENGTH} "
            "characters each."
        )
    return SamplingParams(
        temperature=_number("The temperature", temperature, 100),
        top_p=_number("Top-p", top_p, 1),
        top_k=int(_number("Top-k", top_k, 1_000_000)),
        min_p=_number("Min-p", min_p, 1),
        repetition_penalty=_number("The repetition penalty", repetition_penalty, 100),
        max_new_tokens=int(
            _number("The longest answer", max_new_tokens, MAX_NEW_TOKENS, " tokens")
        ),
        seed=_seed(_text(seed)),
        stop=stops,
    )


def own_compression(
    key_bits: float,
    value_bits: float,
    keep_percent: float,
    scorer: str,
    floor_percent: float,
    newest_percent: float,
    num_sink_tokens: float,
    recent_window: float,
) -> CompressionConfig:
    """Compression by the values in the fields.

    Raises:
        ValueError: A value outside its range; the message names it.
    """
    eviction = None
    keep = _number("The share that is kept", keep_percent, 100, " %")
    if keep < 100:
        eviction = EvictionConfig(
            keep_ratio=round(keep / 100, 4),
            scorer=ScorerName(scorer),
            head_floor=_number("The share of a head", floor_percent, 100, " %") / 100,
            newest_share=_number("The share of the newest", newest_percent, 100, " %") / 100,
        )
    sinks = _number("The first tokens kept exactly", num_sink_tokens, MAX_EXACT_TOKENS)
    window = _number("The newest tokens kept exactly", recent_window, MAX_EXACT_TOKENS)
    return CompressionConfig(
        quant=QuantConfig(key_bits=float(key_bits), value_bits=float(value_bits)),
        eviction=eviction,
        num_sink_tokens=int(sinks),
        recent_window=int(window),
    )


def _number(name: str, value: object, most: float, unit: str = "") -> float:
    if not isinstance(value, (int, float)):
        raise ValueError(f"{name} is missing; write a number.")
    # also refuses what is no number (NaN)
    if not value <= most:
        raise ValueError(f"{name} can be {most:,}{unit} at most.")
    if value < -most:
        raise ValueError(f"{name} is {value!r}; that is too small.")
    return float(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seed(text: str) -> int | None:
    if not text.strip():
        return None
    try:
        # Python itself refuses to read numbers of thousands of digits
        seed = int(text[:40])
    except ValueError:
        raise ValueError(f"The seed is {text[:40]!r}; write a whole number, or nothing.") from None
    if seed not in _SEEDS:
        raise ValueError("The seed can have 18 digits at most.")
    return seed
