"""Models from the hub: what is fetched, what is shown, and what happens when it goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_hub import FakeHub, serve_as_the_hub
from huggingface_hub import constants

from nexusquant.engine import downloads
from nexusquant.engine.downloads import fetch_model, fetched_dir
from nexusquant.engine.events import LoadProgress
from nexusquant.engine.hub import DownloadError, ModelAccessError, NoConnectionError
from nexusquant.errors import UnsupportedModelError

NAME = "somebody/a-model"
MIB = 2**20
WEIGHTS = os.urandom(5 * MIB)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "README.md": b"Read me.",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"another format",
    "onnx/model.safetensors": b"a copy",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[:100],
    "model.safetensors.index.json": b"{}",
}
NEEDED = {name for name in FILES if name.startswith(("config", "tokenizer", "model"))} - {
    "modeling_evil.py"
}
LARGEST = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_as_the_hub(FakeHub(NAME, FILES), monkeypatch) as hub:
        yield hub


def drain(steps) -> tuple[list[LoadProgress], Path]:
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def part_of(data_dir: Path) -> Path:
    (work,) = fetched_dir(data_dir, NAME).parent.glob("*.part")
    return work / f"{LARGEST}.part"


def test_config_tokenizer_and_weights_come_and_nothing_else(hub: FakeHub, tmp_path: Path) -> None:
    events, folder = drain(fetch_model(NAME, tmp_path))
    assert folder == fetched_dir(tmp_path, NAME)
    assert {path.name for path in folder.iterdir()} == NEEDED
    assert all((folder / name).read_bytes() == FILES[name] for name in NEEDED)
    assert list(folder.parent.glob("*.part")) == []
    assert events[0].text == f"Looking up {NAME}"
    assert all(0 <= event.fraction <= 1 for event in events)


def test_one_file_of_weights_is_enough(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = WEIGHTS
    _, folder = drain(fetch_model(NAME, tmp_path))
    assert not (folder / LARGEST).exists()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_size_speed_and_time_left_are_shown(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_EVERY_S", 0.0)
    events, _ = drain(fetch_model(NAME, tmp_path))
    shown = [event for event in events if event.text.startswith("Downloading a-model: ")]
    assert len(shown) >= 5
    assert " of 0.01 GB, " in shown[0].text
    assert "MB/s" in shown[0].text
    assert shown[0].text.endswith(" left")
    fractions = [event.fraction for event in shown]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_stopped_download_goes_on_where_it_was(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_EVERY_S", 0.0)
    steps = fetch_model(NAME, tmp_path)
    while not part_of_exists(tmp_path, at_least=2 * MIB):
        next(steps)
    steps.close()
    held = part_of(tmp_path).stat().st_size
    assert 2 * MIB <= held < len(WEIGHTS)
    assert not fetched_dir(tmp_path, NAME).exists()
    hub.requests.clear()
    _, folder = drain(fetch_model(NAME, tmp_path))
    assert (LARGEST, held) in hub.requests
    assert (folder / LARGEST).read_bytes() == WEIGHTS
    # small files were there already
    assert not any(name == "config.json" for name, _ in hub.requests)


def part_of_exists(data_dir: Path, at_least: int) -> bool:
    parts = list(fetched_dir(data_dir, NAME).parent.glob(f"*.part/{LARGEST}.part"))
    return bool(parts) and parts[0].stat().st_size >= at_least


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_broken_connection_is_tried_again(
    hub: FakeHub, tmp_path: Path, ignores_ranges: bool
) -> None:
    hub.breaks_after, hub.ignores_ranges = [MIB, MIB + 7], ignores_ranges
    events, folder = drain(fetch_model(NAME, tmp_path))
    assert (folder / LARGEST).read_bytes() == WEIGHTS
    assert sum("trying again" in event.text for event in events) == 2


def test_a_connection_that_stays_broken_ends_it_and_keeps_what_came(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.breaks_after = [MIB, *[0] * 50]
    with pytest.raises(NoConnectionError, match="what has come so far is kept"):
        drain(fetch_model(NAME, tmp_path))
    assert part_of(tmp_path).stat().st_size == MIB


def test_a_damaged_file_is_thrown_away(hub: FakeHub, tmp_path: Path) -> None:
    hub.lies.add(LARGEST)
    with pytest.raises(DownloadError, match="arrived damaged"):
        drain(fetch_model(NAME, tmp_path))
    assert not part_of(tmp_path).exists()
    hub.lies.clear()
    _, folder = drain(fetch_model(NAME, tmp_path))
    assert (folder / LARGEST).read_bytes() == WEIGHTS


def test_parts_of_another_revision_are_not_gone_on_with(hub: FakeHub, tmp_path: Path) -> None:
    hub.breaks_after = [MIB, *[0] * 50]
    with pytest.raises(NoConnectionError):
        drain(fetch_model(NAME, tmp_path))
    hub.breaks_after, hub.revision = [], "f" * 40
    hub.files[LARGEST] = WEIGHTS[::-1]
    _, folder = drain(fetch_model(NAME, tmp_path))
    assert (folder / LARGEST).read_bytes() == WEIGHTS[::-1]
    assert list(folder.parent.glob("*.part")) == []


def test_room_on_the_disk_is_looked_at_first(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=downloads.KEPT_FREE_BYTES + 5 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"takes 0\.0 GB more.*0\.5 GB free"):
        drain(fetch_model(NAME, tmp_path))
    assert hub.requests == []


def test_the_config_is_looked_at_before_weights_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    seen = []

    def refuse(folder: Path) -> None:
        seen.append((folder / "config.json").read_bytes())
        raise UnsupportedModelError("Not this one.")

    with pytest.raises(UnsupportedModelError, match="Not this one"):
        drain(fetch_model(NAME, tmp_path, check=refuse))
    assert seen == [FILES["config.json"]]
    assert not any(name.endswith(".safetensors") for name, _ in hub.requests)


def test_a_gated_model_asks_for_agreement_and_a_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_right"
    with pytest.raises(ModelAccessError, match="agree to conditions") as refusal:
        drain(fetch_model(NAME, tmp_path))
    for part in (f"https://huggingface.co/{NAME}", "settings/tokens", "HF_TOKEN", "hf auth login"):
        assert part in str(refusal.value)
    with pytest.raises(ModelAccessError, match="account that the access token is of"):
        drain(fetch_model(NAME, tmp_path, "hf_wrong"))
    _, folder = drain(fetch_model(NAME, tmp_path, "hf_right"))
    assert (folder / LARGEST).read_bytes() == WEIGHTS
    # the token is nowhere on the disk
    assert not any(
        b"hf_right" in path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()
    )


def test_a_token_that_the_hub_does_not_know_is_named_as_the_cause(
    hub: FakeHub, tmp_path: Path
) -> None:
    with pytest.raises(ModelAccessError, match="does not know this access token"):
        drain(fetch_model(NAME, tmp_path, "hf_unknown"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("somebody/else", "no model called somebody/else"),
        ("no/such/folder", "no folder on this computer and no Hugging Face name"),
        ("..", "no folder on this computer and no Hugging Face name"),
    ],
)
def test_a_wrong_name_is_explained(hub: FakeHub, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        drain(fetch_model(name, tmp_path))
    assert not list(tmp_path.rglob("*.part"))


def test_a_model_in_another_format_is_refused_before_anything_is_fetched(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.files = {"model.gguf": b"...", "config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(DownloadError, match="no safetensors weights"):
        drain(fetch_model(NAME, tmp_path))
    assert hub.requests == []


def test_no_connection_is_said(hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    hub.close()
    with pytest.raises(NoConnectionError, match="Check the internet connection"):
        drain(fetch_model(NAME, tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NoConnectionError, match="HF_HUB_OFFLINE forbids"):
        drain(fetch_model(NAME, tmp_path))
