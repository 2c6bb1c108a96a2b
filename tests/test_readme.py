"""README says what is true: its example runs as written, its table is the measured one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.recall_summary import OURS, TOGETHER
from benchmarks.write_readme import (
    README,
    RESULTS,
    ROOT,
    RULES,
    TABLES,
    recall_table,
    speed_table,
    with_tables,
)
from nexusquant import PRESETS
from nexusquant.chat_config import chat_config
from nexusquant.eviction import Observation


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.model
def test_the_python_example_runs_as_written(data_dir: Path, tmp_path: Path) -> None:
    example, _ = python_blocks()
    (tmp_path / "data").symlink_to(data_dir, target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split(" times smaller")[0]) > 4
    assert "Marta" in done.stdout


def test_the_scorer_that_is_shown_keeps_what_scorers_promise() -> None:
    _, example = python_blocks()
    names: dict = {}
    exec(example, names)
    values = torch.ones(2, 5, 4)
    values[:, 3] *= 6
    seen = Observation(torch.ones(4, 1, 4), torch.ones(2, 5, 4), values, 5, 1.0)
    scores = names["ValueNormScorer"]().score(seen)
    assert scores.argmax(dim=1).tolist() == [3, 3]
    torch.testing.assert_close(scores.mean(dim=1), torch.ones(2))


def test_the_tables_are_the_ones_that_were_measured() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_tables(readme) == readme
    assert all(f"<!-- {name}:" in readme for name in TABLES)


def test_what_a_chat_keeps_is_what_the_presets_say() -> None:
    most = {n: chat_config(c).eviction.keeps_up_to for n, c in PRESETS.items() if c.eviction}
    readme = " ".join(README.read_text(encoding="utf-8").split())
    for name, tokens in most.items():
        assert re.search(rf"{tokens:,}( tokens)? with {name.capitalize()}", readme)
    chats = json.loads((RESULTS / "recall_chat.json").read_text(encoding="utf-8"))
    as_measured = {name: asdict(chat_config(PRESETS[name])) for name in ("safe", *most)}
    assert json.loads(json.dumps(as_measured)) == chats["chats"]


def test_the_tables_are_of_the_presets_as_they_are() -> None:
    presets = json.loads((RESULTS / "presets.json").read_text(encoding="utf-8"))
    assert [row["preset"] for row in presets["rows"]] == list(PRESETS)
    ratios = {n: c.eviction.keep_ratio for n, c in PRESETS.items() if c.eviction}
    measured = [json.loads(path.read_text("utf-8")) for path in RESULTS.glob("recall*.json")]
    assert measured
    assert all(recall["keep_ratios"] == ratios for recall in measured)
    quants = {name: PRESETS[name].quant for name in ("safe", *ratios)}
    bits = {name: [quant.key_bits, quant.value_bits] for name, quant in quants.items()}
    assert all(recall["bits"] == bits for recall in measured)


def test_the_presets_reached_what_they_promise_of_8000_tokens() -> None:
    measured = json.loads((RESULTS / "recall.json").read_text(encoding="utf-8"))
    assert measured["num_tokens"] == 8000
    for preset, factor in {"high": 10, "balanced": 17, "max": 33}.items():
        reached = [row["methods"][f"reconstruction {preset}"]["factor"] for row in measured["rows"]]
        assert min(reached) >= factor


def test_the_recall_table_has_every_task_and_the_first_one_with_every_rule() -> None:
    row = {"recall": 0.5, "low": 0.4, "high": 0.6, "least_factor": 10, "num_questions": 8}
    rows = [
        {**row, "task": task, "method": f"{rule} {preset}"}
        for task in ("needles", "summary")
        for rule, presets in (("reconstruction", ("safe", "max")), ("snapkv", ("max",)))
        for preset in presets
    ]
    table = recall_table({"model": "M", "keep_ratios": {"max": 0.1}, "summary": rows})
    cell = "0.50 (0.40-0.60) at 10.0x"
    assert table.splitlines() == [
        "| M | Safe | Max |",
        "|---|---|---|",
        f"| needles, 8 questions: {RULES['reconstruction']} | {cell} | {cell} |",
        f"| summary, 8 questions: {RULES['reconstruction']} | {cell} | {cell} |",
        f"| needles, 8 questions: SnapKV | - | {cell} |",
    ]


def test_the_speed_table_compares_what_one_kind_of_gpu_did_after_reads() -> None:
    times = {"flash_us_after_reads": 30.0, "cudnn_us_after_reads": 20.0}
    kernels = {"kernel_us": 1.0, "kernel_us_after_reads": 10.0}
    attention = {"preset": "max", "num_tokens": 2048, **times, **kernels}
    answers = [{"num_tokens": 2048, "decode_tok_s": speed} for speed in (20.0, 50.0)]
    results = {
        "attention": {"device": "D", "rows": [attention]},
        "generation": {"device": "D", "rows": answers},
    }
    assert speed_table(results).splitlines()[2:] == [
        "| one token's attention over 2,048 | 20 us | 10 us (2.0x) |",
        "| tokens a second of an answer over 2,048 | 20 | 50 (2.5x) |",
    ]
    with pytest.raises(ValueError, match="two kinds"):
        speed_table({**results, "generation": {"device": "E", "rows": answers}})


def ranged(numbers: Iterable[float], digits: int = 0) -> str:
    told = [f"{number:.{digits}f}" for number in sorted(numbers)]
    return f"{told[0]} to {told[-1]}"


def test_what_is_said_of_speed_on_an_h200_was_measured() -> None:
    readme = " ".join(README.read_text(encoding="utf-8").split())
    names = ("attention", "generation_h200", "generation_h200_slow_host")
    attention, *runs = (json.loads((RESULTS / f"{n}.json").read_text("utf-8")) for n in names)
    safe, others = [], []
    for row in attention["rows"]:
        (safe if row["preset"] == "safe" else others).append(row["times_as_fast"])
    told = [f"{ranged(safe, 1)} times as fast with Safe and {ranged(others, 1)} times with the"]
    for run in runs:
        rows = [row for row in run["rows"] if row["cache"] in PRESETS]
        told.append(ranged(row["steady_tok_s"] for row in rows))
        read = [row["times_read_s"] for row in rows if row["num_tokens"] == 32_768]
        told.append(f"{ranged(read, 2)} times the time")
    # of the last run, which has no table
    told.append(f"{ranged(row['decode_tok_s'] for row in rows)} tokens a second")
    told.append(f"{ranged((row['times_dynamic'] for row in rows), 1)} times as many")
    assert [words for words in told if words not in readme] == []


def test_what_is_said_of_all_questions_and_of_chats_was_measured() -> None:
    readme = " ".join(README.read_text(encoding="utf-8").split())
    recall = json.loads((RESULTS / "recall.json").read_text(encoding="utf-8"))
    rows = json.loads((RESULTS / "recall_chat.json").read_text(encoding="utf-8"))["rows"]
    assert f"{sum(row['uncompressed'] for row in rows)} facts" in readme
    for preset in ("safe", "high", "balanced", "max"):
        known = sum(row["methods"][f"{OURS} {preset}"]["found_of_uncompressed"] for row in rows)
        assert re.search(rf"{preset.capitalize()} (knew )?{known}\b", readme)
    for preset in recall["keep_ratios"]:
        behind = min(
            line["ours_more"]["mean"]
            for line in recall["summary"]
            if (line["task"], line["method"].split(" ")[1]) == (TOGETHER, preset)
            and "ours_more" in line
        )
        told = f"{behind:.2f}".removeprefix("0")
        assert re.search(rf" {re.escape(told)} less than {preset.capitalize()}", readme)


def test_pictures_and_files_that_readme_names_exist() -> None:
    readme = README.read_text(encoding="utf-8")
    names = re.findall(r"\]\((docs/[^)]+)\)", readme) + re.findall(
        r"`((?:benchmarks|tests)/[\w/.]+)`", readme
    )
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
