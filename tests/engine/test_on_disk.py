"""Models that need no network: which are there whole, and where the engine takes one from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from test_downloads import NAME

from nexusquant.engine import Engine, JobState, on_disk
from nexusquant.engine.downloads import fetched_dir
from nexusquant.engine.hub import NoConnectionError
from nexusquant.engine.on_disk import folder_of, is_whole, models_on_disk

INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
WHOLE = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "0123"}
IN_PARTS = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "model.safetensors.index.json": INDEX,
    "model-1.safetensors": "01",
    "model-2.safetensors": "01234",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    scan = on_disk.scan_cache_dir
    monkeypatch.setattr(on_disk, "scan_cache_dir", lambda: scan(folder))
    return folder


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def cached(cache: Path, name: str, files: dict[str, str]) -> Path:
    repo = cache / f"models--{name.replace('/', '--')}"
    write(repo / "refs", {"main": "abc"})
    return write(repo / "snapshots" / "abc", files)


@pytest.mark.parametrize("files", [WHOLE, IN_PARTS])
def test_a_model_is_whole_only_with_all_its_files(tmp_path: Path, files: dict[str, str]) -> None:
    folder = write(tmp_path / "model", files)
    assert is_whole(folder)
    for name in files:
        (folder / name).rename(folder / "away")
        assert not is_whole(folder), name
        (folder / "away").rename(folder / name)


def test_models_fetched_here_and_by_others_are_listed(tmp_path: Path, cache: Path) -> None:
    assert models_on_disk(tmp_path) == ()
    write(fetched_dir(tmp_path, "one/fetched"), IN_PARTS)
    write(fetched_dir(tmp_path, "one/fetched").with_name(".one--half.0123.part"), WHOLE)
    write(fetched_dir(tmp_path, "one/broken"), WHOLE | {"model.safetensors.index.json": INDEX})
    (fetched_dir(tmp_path, "one/broken") / "model.safetensors").unlink()
    cached(cache, "two/cached", WHOLE)
    cached(cache, "two/config-only", {"config.json": "{}"})
    found = [(model.name, model.num_bytes) for model in models_on_disk(tmp_path)]
    assert found == [("one/fetched", 7), ("two/cached", 4)]


def test_a_folder_or_a_model_on_disk_is_taken_from_there(tmp_path: Path, cache: Path) -> None:
    own = write(tmp_path / "own", WHOLE)
    assert folder_of(str(own), tmp_path) == own
    assert folder_of("two/cached", tmp_path) is None
    snapshot = cached(cache, "two/cached", WHOLE)
    assert folder_of("two/cached", tmp_path) == snapshot
    fetched = write(fetched_dir(tmp_path, "two/cached"), WHOLE)
    assert folder_of("two/cached", tmp_path) == fetched
    assert folder_of("not a name at all!", tmp_path) is None


def test_offline_the_models_on_disk_are_named(tmp_path: Path) -> None:
    write(fetched_dir(tmp_path, "one/fetched"), WHOLE)
    engine = Engine(tmp_path, device="cpu")
    job = engine.load(NAME)
    assert job.wait(30)
    engine.close()
    assert job.state is JobState.FAILED
    assert isinstance(job.error, NoConnectionError)
    assert str(job.error).endswith("On this disk: one/fetched.")
