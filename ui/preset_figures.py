"""What the self-test found, as sentences and a table. Knows its values; no widget and no page."""

from __future__ import annotations

from nexusquant.config import CompressionConfig
from nexusquant.engine import KL_LIMIT, PresetReport, SelfTestProgress, SelfTestReport
from ui.following import Phase, Snapshot
from ui.gauge import meter, notice
from ui.presenters import (
    PRESET_LABELS,
    count,
    describe_config,
    escape,
    explain,
    factor,
    preset_name,
)

CUSTOM_NOTE = "Own values from Settings: "
NOT_TESTED = "Not yet tested on this model."
OWN_NOT_TESTED = "Own values are not tested on the model."
SAFE, UNSAFE = "fits this model", "unsafe for this model"
COLUMNS = ("Preset", "Factor", "KL", "KL, repeated passage", "Same top word")
STOPPED = "The test was stopped. Nothing of it was kept."


def kl_text(kl: float) -> str:
    """0.0063 -> "0.006"; more digits where these would hide that the limit is exceeded."""
    digits = 3 if abs(kl - KL_LIMIT) >= 0.0005 else 5
    return f"{kl:.{digits}f}"


def agreement(share: float) -> str:
    """0.9712 -> "97.1 %", never broken over two lines."""
    return f"{share * 100:.1f}\N{NO-BREAK SPACE}%"


def is_unsafe(preset: str, report: SelfTestReport | None) -> bool:
    """True when the test found that `preset` damages this model; False when nothing is known."""
    measured = report.of(preset) if report else None
    return measured is not None and not measured.is_safe


def picker_label(preset: str, report: SelfTestReport | None) -> str:
    """The preset's name, marked when it is unsafe for this model."""
    mark = " (unsafe here)" if is_unsafe(preset, report) else ""
    return PRESET_LABELS[preset] + mark


def picker_text(config: CompressionConfig, report: SelfTestReport | None) -> str:
    """What `config` does, and what that was measured to cost on this model."""
    name = preset_name(config)
    parts = [("" if name else CUSTOM_NOTE) + describe_config(config)]
    if not config.is_off:
        parts.append(preset_line(name, report) if name else OWN_NOT_TESTED)
    told = "".join(f'<p class="nq-under">{escape(part)}</p>' for part in parts)
    if name is None or not is_unsafe(name, report):
        return told
    return told + notice(f"{PRESET_LABELS[name]} is {UNSAFE}; answers can be wrong.", "warn")


def preset_line(preset: str, report: SelfTestReport | None) -> str:
    """The figures of one preset on the model in use, in a sentence."""
    measured = report.of(preset) if report else None
    if report is None or measured is None:
        return NOT_TESTED
    scaled = f" with scaled positions ({report.scaling})" if report.scaling else ""
    return (
        f"On this model{scaled}: {factor(measured.compression_factor)} smaller, "
        f"KL {kl_text(measured.kl)} (repeated passage {kl_text(measured.recall_kl)}), "
        f"same top word {agreement(measured.top1_agreement)}."
    )


def ask_about(preset: str | None, report: SelfTestReport | None) -> str:
    """The question before an unsafe preset is used; empty when there is none to ask."""
    measured = report.of(preset) if preset and report else None
    if measured is None:
        return ""
    worst = kl_text(max(measured.kl, measured.recall_kl))
    text = (
        f"{PRESET_LABELS[measured.preset]} is {UNSAFE}: KL {worst}, where {KL_LIMIT} is the "
        "limit. Answers can be wrong without looking wrong. Use it?"
    )
    return notice(text, "warn", is_question=True)


def keep_label(config: CompressionConfig) -> str:
    """What the button says that leaves everything as it is."""
    name = preset_name(config)
    return f"Keep {PRESET_LABELS[name]}" if name else "Keep own values"


def report_table(report: SelfTestReport | None) -> str:
    """One row a preset, and what was measured; empty before the first test."""
    if report is None:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = "".join(_row(measured) for measured in report.presets)
    told = (
        f"Measured on this device with {count(report.num_prefix_tokens)} tokens in the cache and "
        f"{count(report.num_compared_tokens)} tokens after them, each compared with the "
        f"uncompressed model. KL says how far the expected words move: 0 is not at all, and above "
        f"{KL_LIMIT}, in either column, a preset is unsafe. Longer texts shrink more."
    )
    return (
        '<div class="nq-presets"><table class="nq-table" aria-label="Presets on this model">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="nq-under">{told}</p></div>'
    )


def _row(measured: PresetReport) -> str:
    verdict, look = (SAFE, "nq-fits") if measured.is_safe else (UNSAFE, "nq-unsafe")
    cells = (
        factor(measured.compression_factor),
        kl_text(measured.kl),
        kl_text(measured.recall_kl),
        agreement(measured.top1_agreement),
    )
    name = PRESET_LABELS[measured.preset]
    return (
        f'<tr><th scope="row"><b>{name}</b> <span class="{look}">{verdict}</span></th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def testing_status(now: Snapshot | None) -> str:
    """How far the test is, or why the newest one brought nothing; empty when all is well."""
    if now is None or now.phase is Phase.DONE:
        return ""
    if now.phase is Phase.FAILED and now.error is not None:
        return notice(f"The presets could not be tested: {explain(now.error)}", "error")
    if now.phase is Phase.STOPPED:
        return notice(STOPPED, "info")
    if now.phase is Phase.STOPPING:
        return notice("Stopping the test.", "busy")
    if not isinstance(now.progress, SelfTestProgress):
        return notice("Testing presets. Questions go first.", "busy")
    return _progress(now.progress)


def _progress(progress: SelfTestProgress) -> str:
    done, total = progress.num_done, progress.num_total
    text = f"Testing presets: {progress.preset} ({min(done + 1, total)} of {total})"
    return notice(text, "busy") + meter("Testing presets", done / total if total else 0.0, text)


def default_line(report: SelfTestReport | None, given: str | None, default: str) -> str:
    """Which preset pages begin with from now on, and why.

    Args:
        report: What the presets do to this model, if that is known.
        given: The preset asked for with --preset, if any.
        default: The preset that a page opened now begins with.
    """
    label = PRESET_LABELS[default]
    if given is not None:
        text = f"Pages opened from now on begin with {label}, as --preset asks."
        risk = f" It is {UNSAFE}." if is_unsafe(given, report) else ""
        return notice(text + risk, "warn" if risk else "info")
    if report is None:
        return ""
    if is_unsafe(default, report):
        text = (
            "No preset fits this model; Off keeps its answers exact. "
            f"Pages opened from now on begin with {label}."
        )
        return notice(text, "warn")
    text = (
        f"Pages opened from now on begin with {label}, the strongest that fits this model. "
        "Open ones keep their preset."
    )
    return notice(text, "info")
