"""Names of models as people paste them."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_folders import write_model

from nexusquant.engine import Engine, JobState
from nexusquant.engine.models import understood
from nexusquant.errors import UnsupportedModelError

ID = "some-owner/some-model"


@pytest.mark.parametrize(
    "around",
    [
        *('"{}"', "'{}'", "  {}  ", "“{}”", "\ufeff{}\n", "`{}`", "{}/", "<{}>", "& '{}'"),
        *('"{}/config.json"', "{}/model.safetensors", "file://{}", "{}\r\n"),
    ],
)
def test_a_folder_is_found_whatever_stands_around_it(tmp_path: Path, around: str) -> None:
    folder = tmp_path / "my model"
    write_model(folder)
    assert Path(understood(around.format(folder))) == folder


@pytest.mark.parametrize(
    "pasted",
    [
        ID,
        f" {ID}/ ",
        f"https://huggingface.co/{ID}",
        f"http://www.huggingface.co/{ID}/tree/main?show=1#files",
        f"https://huggingface.co/{ID}/blob/main/config.json",
        f"huggingface.co/{ID}",
        f"hf.co/{ID}",
        f"hf://{ID}",
        f"git clone https://huggingface.co/{ID}.git",
        f"huggingface-cli download {ID}",
        f'"{ID}"',
    ],
)
def test_an_address_of_the_hub_means_its_id(pasted: str) -> None:
    assert understood(pasted) == ID


@pytest.mark.parametrize(
    ("pasted", "reason"),
    [
        ("", "No model was named"),
        (' "" ', "No model was named"),
        ("C:\\models\\m.gguf", "GGUF"),
        (f"https://huggingface.co/{ID}/blob/main/m.Q4.gguf", "GGUF"),
        ("https://huggingface.co/datasets/a/b", "not the page of a model"),
        ("https://huggingface.co/", "not the page of a model"),
        ("https://example.com/a/b", "outside huggingface.co"),
        ("https://huggingface.co@example.com/a/b", "outside huggingface.co"),
        ("https://huggingface.co.example.com/a/b", "outside huggingface.co"),
        ("http://127.0.0.1:9/a/b", "outside huggingface.co"),
        ("https://[::1", "no address"),
        ("file://elsewhere/x", "another computer"),
        ("a\0b", "no name"),
        ("a/b\nc/d", "no name"),
        ("\ud83d", "no name"),
        ("x" * 5000, "no name"),
        ("x" * 400, "cannot be opened"),
    ],
)
def test_what_is_no_model_is_told(pasted: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        understood(pasted)


def test_files_and_links_that_are_no_models_are_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        understood(str(tmp_path / "model.bin"))
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(UnsupportedModelError, match="Give the folder"):
        understood(str(tmp_path / "notes.txt"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UnsupportedModelError, match="in a circle"):
        understood(str(tmp_path / "loop"))


def test_a_folder_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("nexusquant.engine.models.pasted_name.os.scandir", refuse)
    with pytest.raises(UnsupportedModelError, match="Permission denied"):
        understood(str(tmp_path))


def test_the_engine_loads_what_was_pasted(tmp_path: Path) -> None:
    write_model(tmp_path / "my model")
    engine = Engine(tmp_path / "data", "cpu")
    job = engine.load(f'  "{tmp_path}/my model/config.json"\n')
    assert job.wait(60)
    other = engine.load(str(tmp_path / "m.gguf"))
    assert other.wait(60)
    info = engine.info
    engine.close()
    assert job.state is JobState.DONE
    assert isinstance(other.error, UnsupportedModelError)
    # what cannot be meant does not cost the model that is loaded
    assert info is not None
    assert info.name == str(tmp_path / "my model")
