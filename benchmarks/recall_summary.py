"""From counts of found facts to recall, intervals and differences; and the file they stand in.

Knows rows of counts. Must not know caches or models. Intervals are 95 % bootstrap intervals over
texts: questions about one text are not independent. Differences are paired: both rules were asked
the same questions about the same texts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

OURS, WHOLE = "reconstruction", "safe"
SUMMARY = "summary"
"""The task whose answers count token by token."""
TOGETHER = "all of these"
"""Every question of several tasks that is answered or not."""
NUM_RESAMPLES = 2000

Counts = Sequence[tuple[int, ...]]


def summary(rows: Sequence[dict]) -> list[dict]:
    """Recall, relative to what the uncompressed model found, of each task and method.

    `ours_more` of another rule is our recall at that preset less its own; `lost_to_eviction` of
    ours is the recall with the same codes and nothing removed, less its own.
    """
    by_task: dict[str, list[dict]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    answered = [task for task in by_task if task != SUMMARY]
    if len(answered) > 1:
        by_task[TOGETHER] = [row for task in answered for row in by_task[task]]
        # "these" are those that stand before it
        if SUMMARY in by_task:
            by_task[SUMMARY] = by_task.pop(SUMMARY)
    return [
        _line(task, method, of_task)
        for task, of_task in by_task.items()
        for method in dict.fromkeys(name for row in of_task for name in row["methods"])
    ]


def _line(task: str, method: str, rows: Sequence[dict]) -> dict:
    rule, preset = method.rsplit(" ", 1)
    tried = [row for row in rows if method in row["methods"]]
    counts = [(row["methods"][method]["found"], row["uncompressed"]) for row in tried]
    line = {"task": task, "method": method} | _rounded(counts, _share, "recall", "low", "high")
    line |= {
        "num_questions": sum(row["num_questions"] for row in tried),
        "unit": "tokens" if task == SUMMARY else "questions",
        "num_found_uncompressed": sum(row["uncompressed"] for row in tried),
        "num_texts": len(tried),
        "least_factor": min(row["methods"][method]["factor"] for row in tried),
    }
    if rule != OURS:
        line["ours_more"] = _difference(tried, f"{OURS} {preset}", method)
    elif preset != WHOLE:
        line["lost_to_eviction"] = _difference(tried, f"{OURS} {WHOLE}", method)
    return line


def _difference(rows: Sequence[dict], one: str, other: str) -> dict:
    counts = [
        (row["methods"][one]["found"], row["methods"][other]["found"], row["uncompressed"])
        for row in rows
        if one in row["methods"]
    ]
    return _rounded(counts, _share_of_difference, "mean", "low", "high") if counts else {}


def _rounded(counts: Counts, statistic: Callable[[Counts], float], *names: str) -> dict:
    """A statistic and the ends of its interval, each under its name."""
    rng = random.Random(0)
    draws = sorted(statistic(rng.choices(counts, k=len(counts))) for _ in range(NUM_RESAMPLES))
    ends = draws[int(0.025 * NUM_RESAMPLES)], draws[int(0.975 * NUM_RESAMPLES) - 1]
    values = (statistic(counts), *ends)
    return {name: round(value, 4) for name, value in zip(names, values, strict=True)}


def _share(counts: Counts) -> float:
    return sum(found for found, _ in counts) / max(1, sum(of for _, of in counts))


def _share_of_difference(counts: Counts) -> float:
    more = sum(one - other for one, other, _ in counts)
    return more / max(1, sum(of for *_, of in counts))


def open_results(path: Path, setting: dict) -> dict:
    """What a file holds already, or nothing yet.

    Raises:
        SystemExit: It was measured with other settings.
    """
    if not path.exists():
        return {**setting, "summary": [], "rows": []}
    results = json.loads(path.read_text(encoding="utf-8"))
    others = [name for name in setting if results.get(name) != setting[name]]
    if others:
        raise SystemExit(f"{path} has another {' and '.join(others)}; choose another --out.")
    return results


def write_results(path: Path, results: dict) -> None:
    """Sum up the rows and write everything, one row a line."""
    results["summary"] = summary(results["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {name: results[name] for name in ("summary", "rows")}
    head = json.dumps({k: v for k, v in results.items() if k not in lists}, indent=1)
    parts = [
        f' "{name}": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]"
        for name, rows in lists.items()
    ]
    text = head.removesuffix("\n}") + ",\n" + ",\n".join(parts) + "\n}\n"
    # whatever ends the run leaves the rows that were measured before
    partial = path.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def print_summary(results: dict) -> None:
    """One line for each task and method."""
    for row in results["summary"]:
        more = row.get("ours_more") or row.get("lost_to_eviction") or {}
        difference = "[{low:+.3f}, {high:+.3f}]".format(**more) if more else ""
        print(
            f"{row['task']:14} {row['method']:28} recall {row['recall']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}]  at least {row['least_factor']:.1f}x  "
            f"{row['num_texts']} texts, {row['num_questions']} {row['unit']}  {difference}"
        )
