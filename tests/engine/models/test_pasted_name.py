"""Names of models as people paste them: what they mean, or why they mean nothing here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from small_model import write_model
from watching import Watch

from nexusquant.engine import Engine, JobState
from nexusquant.engine.models import understood
from nexusquant.errors import UnsupportedModelError

WATCH = Watch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a blank in its name, as on many computers."""
    path = tmp_path / "my model"
    path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize(
    "pasted",
    [
        *('"{}"', "'{}'", "  {}  ", "\t{}\r\n", "“{}”", "`{}`", "<{}>", '  "{}" ', "\ufeff{}"),
        *("{}/", "{}/config.json", '"{}/config.json"', "{}/model.safetensors", "{}/tokenizer.json"),
        *("& '{}'", "--model {}", "{}\0"),
    ],
)
def test_a_folder_is_found_in_what_was_pasted(folder: Path, pasted: str) -> None:
    assert Path(understood(pasted.format(folder))) == folder


def test_an_address_of_a_file_is_a_folder(folder: Path) -> None:
    assert Path(understood(folder.as_uri())) == folder
    assert Path(understood((folder / "config.json").as_uri())) == folder


def test_home_and_variables_are_filled_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    monkeypatch.setenv("MODELS", str(folder.parent))
    assert Path(understood("~/my model")) == folder
    assert Path(understood("$MODELS/my model")) == folder


@pytest.mark.parametrize(
    "pasted",
    [
        *("some-owner/some-model", "some-owner/some-model/", " 'some-owner/some-model'\n"),
        "https://huggingface.co/some-owner/some-model",
        "http://www.huggingface.co/some-owner/some-model/",
        "HTTPS://HuggingFace.co/some-owner/some-model/tree/main",
        "https://huggingface.co/some-owner/some-model/blob/main/config.json?download=true#x",
        "huggingface.co/some-owner/some-model",
        "hf.co/some-owner/some-model",
        "hf://some-owner/some-model",
        "git clone https://huggingface.co/some-owner/some-model.git",
        "hf download some-owner/some-model",
        "huggingface-cli download some-owner/some-model",
    ],
)
def test_an_address_of_the_hub_is_its_id(pasted: str) -> None:
    assert understood(pasted) == "some-owner/some-model"


@pytest.mark.parametrize(
    "pasted",
    [
        "https://huggingface.co/a/b/resolve/main/b-Q4_K_M.gguf",
        *("C:\\models\\b.gguf", "/nowhere/B.GGUF", '"b.gguf"'),
    ],
)
def test_a_gguf_file_is_refused_as_one(pasted: str) -> None:
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        understood(pasted)


def test_a_gguf_file_under_another_name_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        understood(str(tmp_path / "model.bin"))


def test_a_file_of_another_kind_is_told_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(UnsupportedModelError, match="Give the folder"):
        understood(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("pasted", "reason"),
    [
        ("x" * 400, "cannot be opened"),
        *((nothing, "No model was named") for nothing in ("", "  ", '""', "\n\t")),
        ("https://evil.example/huggingface.co/a/b", "outside huggingface.co"),
        ("https://huggingface.co@evil.example/a/b", "outside huggingface.co"),
        ("https://huggingface.co.evil.example/a/b", "outside huggingface.co"),
        ("http://127.0.0.1:1/a/b", "outside huggingface.co"),
        ("ftp://x/y", "outside huggingface.co"),
        ("https://[::1", "no address"),
        ("https://huggingface.co/", "not the page of a model"),
        ("https://huggingface.co/datasets/a/b", "not the page of a model"),
        ("file://server/share/model", "another computer"),
        ("a\nb", "no name of a model"),
        ("a\0b", "no name of a model"),
        ("\ud83d", "no name of a model"),
        ("x" * 5000, "too long"),
    ],
)
def test_what_is_no_model_is_told_and_nothing_is_called(pasted: str, reason: str) -> None:
    with WATCH.on() as watch, pytest.raises(UnsupportedModelError, match=reason):
        understood(pasted)
    assert watch.called == []


@pytest.mark.skipif(sys.platform == "win32", reason="links, devices and modes are of Unix")
def test_loops_devices_and_locked_folders_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = folder.parent / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UnsupportedModelError, match="loop"):
        understood(str(loop))

    def scandir(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UnsupportedModelError, match=r"cannot be opened \(Permission denied\)"):
        understood(str(folder))


def test_the_engine_loads_what_was_pasted(tmp_path: Path) -> None:
    write_model(tmp_path / "my model")
    engine = Engine(tmp_path / "data", "cpu")
    try:
        for pasted in ('"{}"', "  {}  ", "{}/config.json"):
            job = engine.load(pasted.format(tmp_path / "my model"))
            job.wait(60)
            assert job.state is JobState.DONE, job.error
        job = engine.load(str(tmp_path / "m.gguf"))
        job.wait(60)
        assert "GGUF" in str(job.error)
    finally:
        engine.close()
