"""Numbers and errors as words. Knows the engine's values; no widget and no page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nexusquant.chat_config import chat_config
from nexusquant.config import PRESETS, PROMISED_FROM, CompressionConfig
from nexusquant.engine import FinishReason, GenerationStats
from nexusquant.engine.stats import CacheUsage
from nexusquant.errors import NexusquantError, OutOfMemoryError

PRESET_LABELS = {
    "off": "Off",
    "safe": "Safe",
    "high": "High",
    "balanced": "Balanced",
    "max": "Max",
}
"""Names of `PRESETS` as the page writes them, weakest first."""

CUSTOM_LABEL = "Custom"

_RISKS = (
    (1.0, "Every token is kept."),
    (0.36, "Rarely, a detail mentioned once is missed."),
    (0.25, "A detail mentioned once can be missed."),
    (0.14, "Facts mentioned once can be lost; check what matters."),
    (0.0, "For summaries only; single facts are often lost."),
)


def escape(text: str) -> str:
    """Text of a person, a model or a file, safe inside HTML."""
    return html.escape(text, quote=True)


def count(number: float) -> str:
    """1234.0 -> "1,234"."""
    return f"{round(number):,}"


def byte_size(num_bytes: float) -> str:
    """1_900_000_000 -> "1.9 GB"; decimal units, two figures that matter."""
    size = float(num_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(size) < 999.5 or unit == "GB":
            break
        size /= 1000
    digits = 0 if unit == "B" or abs(size) >= 99.95 else 1 if abs(size) >= 9.995 else 2
    return f"{size:,.{digits}f} {unit}"


def rate(tok_s: float) -> str:
    """Tokens per second with its unit; small rates keep a decimal."""
    return f"{tok_s:,.1f} tok/s" if tok_s < 100 else f"{tok_s:,.0f} tok/s"


def seconds(duration_s: float) -> str:
    """0.42 -> "0.42 s", 75 -> "1 min 15 s"."""
    if duration_s < 10:
        return f"{duration_s:.2f} s"
    if duration_s < 60:
        return f"{duration_s:.0f} s"
    minutes, rest = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def time_left(left_s: float | None) -> str:
    """A rough time to wait, or a word that there is no estimate yet."""
    if left_s is None:
        return "estimating the time left"
    return "a few seconds left" if left_s < 5 else f"about {seconds(max(left_s, 10))} left"


def percent(share: float) -> str:
    """0.614 -> "61 %", which stays on one line."""
    return f"{share * 100:.0f}\N{NO-BREAK SPACE}%"


def factor(value: float) -> str:
    """6.13 -> "6.1x"; below 1 two decimals."""
    return (
        f"{value:.1f}\N{MULTIPLICATION SIGN}"
        if value >= 1
        else f"{value:.2f}\N{MULTIPLICATION SIGN}"
    )


def memory_saved(usage: CacheUsage) -> str:
    """16-bit bytes, bytes held, the measured factor: "1.9 GB -> 310 MB, 6.1x"."""
    before, after = byte_size(usage.uncompressed_bytes), byte_size(usage.stored_bytes)
    return f"{before} \N{RIGHTWARDS ARROW} {after}, {factor(usage.compression_factor)}"


def place_in_line(position: int) -> str:
    """0 -> "Next in line", 1 -> "2nd in line"."""
    if position <= 0:
        return "Next in line"
    number = position + 1
    is_teen = 10 <= number % 100 <= 20
    suffix = "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix} in line"


def preset_name(config: CompressionConfig) -> str | None:
    """The key in `PRESETS` that has exactly these values, or None for values of one's own."""
    return next((name for name, preset in PRESETS.items() if preset == config), None)


def config_label(config: CompressionConfig) -> str:
    """The preset's name as the page writes it."""
    name = preset_name(config)
    return PRESET_LABELS[name] if name else CUSTOM_LABEL


def describe_config(config: CompressionConfig) -> str:
    """One honest sentence or two: what is done to the cache and what that risks."""
    if config.quant is None:
        return "Keys and values stay as the model makes them. The reference; needs the most memory."
    codes = (
        f"{config.quant.key_bits:g}-bit keys and {config.quant.value_bits:g}-bit values on average"
    )
    keep = config.eviction.keep_ratio if config.eviction else 1.0
    risk = next(text for least, text in _RISKS if keep >= least)
    if keep == 1.0:
        return f"{codes}. {risk}"
    again = " Long texts are read twice to choose them." if config.reads_twice(10**9) else ""
    share = f"{keep * 100:g}\N{NO-BREAK SPACE}%"
    chat = _in_a_chat(config)
    return f"{codes}; {share} of the codes of a long text are kept.{again}{chat} {risk}"


def _in_a_chat(config: CompressionConfig) -> str:
    chat = chat_config(config).eviction
    if not chat.reserve:
        return ""
    share = f"{chat.share_of(0, PROMISED_FROM) * 100:.0f}\N{NO-BREAK SPACE}%"
    if not chat.keeps_up_to:
        return f" Of a chat's past turns {share} are kept."
    return (
        f" A chat keeps every token until it holds {count(chat.keeps_up_to)} of them, "
        f"then {share} of the old ones stay."
    )


def turn_figures(stats: GenerationStats) -> list[tuple[str, str]]:
    """Label and value of everything measured in one turn, in reading order."""
    usage, memory = stats.usage, stats.memory
    used = memory.device_total_bytes - memory.device_free_bytes
    return [
        ("Read", f"{count(stats.num_prompt_tokens)} tokens, {rate(stats.prefill_tok_s)}"),
        ("First token", seconds(stats.ttft_s)),
        ("Answer", f"{count(stats.num_new_tokens)} tokens, {rate(stats.decode_tok_s)}"),
        *_steps(stats),
        ("KV cache", byte_size(usage.stored_bytes)),
        ("In 16 bits", byte_size(usage.uncompressed_bytes)),
        ("Measured factor", factor(usage.compression_factor)),
        ("Evicted", f"{count(usage.num_evicted_tokens)} of {count(usage.num_seen_tokens)} tokens"),
        ("This program", byte_size(memory.process_bytes)),
        ("Device", f"{byte_size(used)} of {byte_size(memory.device_total_bytes)}"),
    ]


def _steps(stats: GenerationStats) -> list[tuple[str, str]]:
    """Why the kernels of a GPU were started one by one, if they were."""
    if stats.graph_problem is None:
        return []
    return [("Steps", f"slower than they could be, not one CUDA graph: {stats.graph_problem}")]


def finish_note(reason: FinishReason) -> str:
    """Why an answer ended where it did, when the person may wonder."""
    return {
        FinishReason.END: "",
        FinishReason.LENGTH: "The answer reached its longest length (Settings: longest answer).",
        FinishReason.CONTEXT: "The model's context is full. Start a new chat to go on.",
    }[reason]


def explain(error: Exception) -> str:
    """What happened, what is safe, what can be done; plain text, not yet escaped."""
    if isinstance(error, OutOfMemoryError):
        return f"{error} The memory was freed; you can go on."
    if isinstance(error, NexusquantError | ValueError):
        return str(error)
    return (
        f"Something unexpected happened ({type(error).__name__}). What you wrote is kept; "
        "try again. The log has the details."
    )


def turns_as_csv(turns: Sequence[GenerationStats]) -> str:
    """The figures of all turns, one line each, with a header."""
    lines = [
        "turn,prompt_tokens,new_tokens,ttft_s,prefill_tok_s,decode_tok_s,"
        "stored_bytes,uncompressed_bytes,compression_factor,evicted_tokens"
    ]
    for number, turn in enumerate(turns, start=1):
        usage = turn.usage
        lines.append(
            f"{number},{turn.num_prompt_tokens},{turn.num_new_tokens},{turn.ttft_s:.3f},"
            f"{turn.prefill_tok_s:.1f},{turn.decode_tok_s:.1f},{usage.stored_bytes},"
            f"{usage.uncompressed_bytes},{usage.compression_factor:.3f},"
            f"{usage.num_evicted_tokens:.0f}"
        )
    return "\n".join(lines) + "\n"
