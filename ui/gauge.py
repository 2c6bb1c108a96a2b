"""Small pieces of HTML that show figures. Knows values and words; every foreign text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nexusquant.config import RopeScaling
from nexusquant.engine import (
    BlockProgress,
    GenerationStats,
    LoadProgress,
    MemoryReading,
    ModelInfo,
    PrefillProgress,
    RereadProgress,
)
from nexusquant.engine.stats import CacheUsage
from ui.following import Phase, Snapshot
from ui.presenters import (
    byte_size,
    count,
    escape,
    explain,
    factor,
    finish_note,
    memory_saved,
    percent,
    place_in_line,
    rate,
    seconds,
    time_left,
    turn_figures,
    turns_as_csv,
)

SMALL_FACTOR = 2.0


@dataclass(frozen=True)
class Room:
    """How much more text fits.

    Args:
        num_tokens: Tokens that still fit, or None when it cannot be known.
        limit: What ends first: "context" or "memory".
    """

    num_tokens: int
    limit: str


def room_left(usage: CacheUsage | None, info: ModelInfo, memory: MemoryReading) -> Room:
    """The smaller of what the context and what free memory at the measured bytes per token hold."""
    seen = usage.num_seen_tokens if usage else 0
    by_context = max(0, info.context_length - seen)
    if not usage or not seen or not usage.stored_bytes:
        return Room(by_context, "context")
    by_memory = int(memory.device_free_bytes * seen / usage.stored_bytes)
    return Room(by_context, "context") if by_context <= by_memory else Room(by_memory, "memory")


def meter(label: str, share: float, text: str) -> str:
    """A bar from 0 to 1 that says its value to a screen reader."""
    now = round(100 * min(max(share, 0.0), 1.0))
    return (
        f'<div class="nq-meter" role="meter" aria-label="{escape(label)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{now}" aria-valuetext="{escape(text)}">'
        f'<span style="width:{now}%"></span></div>'
    )


def gauge(
    usage: CacheUsage | None,
    info: ModelInfo | None,
    memory: MemoryReading | None,
    measured_when: str = "after the first answer",
) -> str:
    """The KV cache of one conversation: bytes, context used, and how much more fits."""
    if info is None or memory is None:
        return _card("KV cache", "<p class='nq-quiet'>No model yet. Nothing is stored.</p>")
    seen = usage.num_seen_tokens if usage else 0
    room = room_left(usage, info, memory)
    context = f"{count(seen)} of {count(info.context_length)} tokens of context"
    held = byte_size(usage.stored_bytes) if usage and seen else "0 B"
    saved = memory_saved(usage) if usage and seen else f"measured {measured_when}"
    if usage and usage.num_quantized_pairs and usage.compression_factor < SMALL_FACTOR:
        saved += ". Short texts gain little: the newest tokens are kept exactly."
    return _card(
        "KV cache",
        f'<p class="nq-big">{held}</p><p class="nq-quiet">{saved}</p>'
        f"{meter('Context used', seen / info.context_length, context)}"
        f"<p>{context}</p>"
        f"<p>Fits <b>{count(room.num_tokens)}</b> more tokens"
        f' <span class="nq-quiet">(the {room.limit} ends first)</span></p>',
    )


def model_line(
    info: ModelInfo | None,
    memory: MemoryReading | None,
    loading: LoadProgress | None,
    failure: str | None,
) -> str:
    """The head of the page: which model on which device, or how far loading is."""
    if loading is not None:
        bar = meter("Loading the model", loading.fraction, percent(loading.fraction))
        text = f"{escape(loading.text)} <b>{percent(loading.fraction)}</b>"
        return _head(f"{text} You can write already.{bar}")
    parts = []
    if info is not None:
        parts = [
            f"<b>{escape(info.name)}</b>",
            f"{escape(info.device_name)} ({escape(info.dtype)})",
            f"context {count(info.context_length)} tokens",
        ]
    if info is not None and memory is not None:
        used = memory.device_total_bytes - memory.device_free_bytes
        parts.append(f"memory {byte_size(used)} of {byte_size(memory.device_total_bytes)}")
    notes = [failure] if failure else []
    notes += list(info.notes) if info else []
    told = "".join(f'<div class="nq-note">{escape(note)}</div>' for note in notes)
    line = " \N{MIDDLE DOT} ".join(parts) or "No model is loaded."
    return _head(line + told)


def _head(line: str) -> str:
    return f'<header class="nq-head"><h1>Nexusquant</h1><div class="nq-line">{line}</div></header>'


def request_status(now: Snapshot) -> str:
    """What the running request is doing, or how the last one ended; empty when all is well."""
    if now.phase is Phase.FAILED and now.error is not None:
        return notice(explain(now.error), "error")
    if now.phase is Phase.DONE:
        note = finish_note(now.finished.reason) if now.finished else ""
        return notice(note, "info") if note else ""
    texts = {
        Phase.LOADING: "Your message waits until the model is loaded.",
        Phase.WAITING: f"{place_in_line(now.position)}. Another request is running.",
        Phase.STOPPING: "Stopping: the engine ends the step it is in.",
        Phase.STOPPED: "Stopped. What was written so far is kept; Regenerate answers again.",
        Phase.ANSWERING: f"Answering, {count(len(now.text.split()))} words",
        Phase.READING: "Reading",
    }
    if now.phase is Phase.READING and isinstance(now.progress, PrefillProgress | RereadProgress):
        return _reading(now.progress)
    kind = "info" if now.phase is Phase.STOPPED else "busy"
    return notice(texts[now.phase], kind)


def _reading(progress: PrefillProgress | RereadProgress) -> str:
    share = progress.num_done / progress.num_total if progress.num_total else 0.0
    speed = progress.num_done / progress.elapsed_s if progress.elapsed_s else 0.0
    left = (progress.num_total - progress.num_done) / speed if speed else None
    tokens = f"{count(progress.num_done)} of {count(progress.num_total)} tokens"
    if progress.block is not None:
        # both readings take turns: one bar, and one time, for all of it
        share, left = progress.block.share, progress.block.left_s(progress.elapsed_s)
        tokens += f" ({part(progress.block)})"
    if isinstance(progress, RereadProgress):
        label = "Reading again"
        text = f"{label} to see what matters: {tokens}, {time_left(left)}"
    else:
        label = "Reading"
        text = f"{label} {tokens}, {rate(speed)}, {time_left(left)}"
    return notice(text, "busy") + meter(label, share, text)


def part(block: BlockProgress) -> str:
    """Which block of a long text is being read."""
    return f"part {block.number} of {block.num_blocks}"


def notice(text: str, kind: str, *, is_question: bool = False) -> str:
    """A sentence in a box. `kind` is "info", "busy", "warn" or "error"; "" makes no box.

    An error, or a question that something waits for, is read out by a screen reader at once.
    """
    role = "alert" if kind == "error" or is_question else "note"
    return f'<div class="nq-notice nq-{kind}" role="{role}">{escape(text)}</div>' if text else ""


def spoken(phase: Phase, num_words: int) -> str:
    """What a screen reader hears: one word per phase, never the tokens."""
    ends = {
        Phase.DONE: f"done, {num_words} words" if num_words else "",
        Phase.STOPPED: "stopped",
        Phase.FAILED: "failed, see the message",
    }
    told = ends.get(phase, phase.value)
    return f'<div class="nq-spoken" role="status" aria-live="polite">{told}</div>'


def figures(stats: GenerationStats | None) -> str:
    """The statistics line of a turn."""
    if stats is None:
        return ""
    items = "".join(
        f"<span><i>{escape(label)}</i> {escape(value)}</span>"
        for label, value in turn_figures(stats)
    )
    return f'<div class="nq-figures" aria-label="Figures of the last turn">{items}</div>'


def turns_table(turns: Sequence[GenerationStats]) -> str:
    """All turns as a table, with a link that saves them as CSV."""
    if not turns:
        return '<p class="nq-quiet">Figures appear after the first answer.</p>'
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Turn", "Tokens", "KV", "In 16 bits", "Factor", "First token", "Answer")
    )
    rows = "".join(_turn_row(number, turn) for number, turn in enumerate(turns, start=1))
    data = base64.b64encode(turns_as_csv(turns).encode()).decode()
    link = (
        f'<a class="nq-link" download="nexusquant-turns.csv" '
        f'href="data:text/csv;base64,{data}">Save as CSV</a>'
    )
    return (
        f'<div class="nq-scroll"><table class="nq-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{link}"
    )


def _turn_row(number: int, turn: GenerationStats) -> str:
    cells = (
        count(turn.usage.num_seen_tokens),
        byte_size(turn.usage.stored_bytes),
        byte_size(turn.usage.uncompressed_bytes),
        factor(turn.usage.compression_factor),
        seconds(turn.ttft_s),
        rate(turn.decode_tok_s),
    )
    return f'<tr><th scope="row">{number}</th>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"


def _card(title: str, body: str) -> str:
    return f'<section class="nq-card"><h3>{escape(title)}</h3>{body}</section>'


def offer_label(scaling: RopeScaling | None) -> str:
    """What the button says that scales positions; empty without an offer."""
    return f"Answer with scaled positions ({scaling})" if scaling else ""


def scaled_positions(scaling: RopeScaling | None) -> str:
    """Says that positions are scaled, as long as they are."""
    if scaling is None:
        return ""
    return notice(
        f"Positions are scaled here ({scaling}): the model reads beyond the length it was trained "
        "on, and less exactly the further it goes. The presets are tested with these positions; "
        "what that finds stands with the preset.",
        "info",
    )


def with_scaling(info: ModelInfo | None, scaling: RopeScaling | None) -> ModelInfo | None:
    """The model in figures as a text with scaled positions sees it."""
    if info is None or scaling is None:
        return info
    return replace(info, context_length=round(info.context_length * scaling.factor))
