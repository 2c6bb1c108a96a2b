"""Configs and tokenizers of strangers are refused with the file and the entry named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_model import write_model
from watching import Watch

from nexusquant.engine.model_loader import check_loadable, load_model
from nexusquant.engine.models import folder_check
from nexusquant.errors import UnsupportedModelError

WATCH = Watch()
_PIECES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model that loads."""
    write_model(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, name: str = "config.json", **entries: object) -> None:
    path = folder / name
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, **entries}), encoding="utf-8")


def refused(folder: Path, *words: str) -> None:
    """By the look before the weights are fetched, and by loading."""
    for attempt in (lambda: check_loadable(folder, "cpu", "auto"), lambda: load_model(folder)):
        with pytest.raises(UnsupportedModelError) as caught:
            attempt()
        missing = [word for word in words if word not in str(caught.value)]
        assert not missing, f"{missing} in {caught.value}"


def test_the_small_model_loads(folder: Path) -> None:
    check_loadable(folder, "cpu", "auto")
    assert load_model(folder, "cpu").context_length == 512


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -4),
        ("num_attention_heads", True),
        ("num_key_value_heads", "2"),
        ("num_hidden_layers", 10**9),
        ("hidden_size", 0.5),
        ("head_dim", {}),
        ("max_position_embeddings", "long"),
        ("max_position_embeddings", 10**30),
        ("vocab_size", -1),
        ("model_type", ["llama"]),
        ("model_type", None),
        ("model_type", 7),
        ("eos_token_id", ["</s>"]),
        ("eos_token_id", "</s>"),
        ("bos_token_id", 1.5),
        ("rms_norm_eps", float("nan")),
        ("initializer_range", float("inf")),
        ("dtype", "load"),
        ("torch_dtype", ["float16"]),
        ("rope_scaling", "yarn"),
        ("layer_types", "full_attention"),
        ("layer_types", [1, 2]),
        ("quantization_config", 4),
        ("text_config", "llama"),
        ("transformers_weights", "/etc/passwd"),
        ("num_key_value_heads", 0),
        ("pad_token_id", {"a": 1}),
        ("hidden_act", 3),
        ("use_cache", "perhaps"),
    ],
)
def test_a_senseless_entry_is_named(folder: Path, entry: str, value: object) -> None:
    change(folder, **{entry: value})
    refused(folder, entry)


def test_an_entry_of_a_section_is_named_with_it(folder: Path) -> None:
    change(folder, text_config={"num_attention_heads": 0})
    refused(folder, "text_config", "num_attention_heads")


def test_end_tokens_of_the_generation_config_are_looked_at(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    refused(folder, "generation_config.json", "eos_token_id")


def test_a_type_may_be_given_for_each_section(folder: Path) -> None:
    change(folder, dtype={"text_config": "bfloat16"})
    folder_check.check_config(folder)
    change(folder, dtype={"text_config": "load"})
    refused(folder, "dtype")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("[]", "list"),
        ("7", "number"),
        ("null", "null"),
        ('"llama"', "text"),
        ("", "no JSON"),
        ("{", "no JSON"),
        ("\0\0", "no JSON"),
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000, "nested"),
        ('{"model_type": "llama", "x": ' + '{"a":' * 300 + "1" + "}" * 301, "nested"),
        ('{"model_type": "llama", "x": ' + "9" * 5000 + "}", "config.json"),
        ("<!DOCTYPE html>", "no JSON"),
    ],
)
def test_a_config_that_is_none_is_told(folder: Path, content: str, word: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    refused(folder, "config.json", word)


def test_a_config_of_50_megabytes_is_refused_before_it_is_opened(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * 50_000_000 + b"{}")
    with WATCH.on() as watch:
        refused(folder, "config.json", "50,000,002 bytes", "5,000,000")
    assert watch.opened_below(folder / "config.json") == []


def _outside(folder: Path) -> Path:
    secret = folder.parent / "secret"
    secret.write_text('{"model_type": "llama"}')
    return secret


_NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "loop": (lambda path: path.symlink_to(path), "cannot be opened"),
    "two links": (
        lambda path: (path.symlink_to("other"), (path.parent / "other").symlink_to(path.name)),
        "cannot be opened",
    ),
    "nowhere": (lambda path: path.symlink_to("nowhere"), "link to a file that is not there"),
    "outside": (lambda path: path.symlink_to(_outside(path.parent)), "outside the model's folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "folder": (lambda path: path.mkdir(), "no regular file"),
    "pipe": (lambda path: os.mkfifo(path), "no regular file"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="links, devices and pipes are of Unix")
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"]
)
@pytest.mark.parametrize("kind", _NO_FILES)
def test_what_is_no_file_of_the_folder_is_named_and_not_opened(
    folder: Path, name: str, kind: str
) -> None:
    (folder / name).unlink()
    make, reason = _NO_FILES[kind]
    make(folder / name)
    with WATCH.on() as watch:
        for attempt in (lambda: load_model(folder), lambda: load_model(folder)):
            with pytest.raises(UnsupportedModelError, match=f"{name}.*{reason}"):
                attempt()
    assert watch.opened_below(folder.parent / "secret", Path("/dev/zero")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_snapshot_of_the_hubs_cache_is_opened_through_its_links(
    folder: Path, tmp_path: Path
) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert load_model(snapshot, "cpu").context_length == 512


def _locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may read it; where tests run as root, as if nobody might."""
    path.chmod(0)
    if os.geteuid() == 0:
        real_list, real_access = os.listdir, os.access

        def listdir(found: object = ".") -> list[str]:
            if Path(str(found)) == path:
                raise PermissionError(13, "Permission denied", str(found))
            return real_list(found)

        monkeypatch.setattr(os, "listdir", listdir)
        monkeypatch.setattr(
            os, "access", lambda found, mode: Path(found) != path and real_access(found, mode)
        )


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of Unix")
def test_an_unreadable_folder_and_file_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _locked(folder / "config.json", patch)
        refused(folder, "config.json", "may not be read")
        (folder / "config.json").chmod(0o600)
    with monkeypatch.context() as patch:
        _locked(folder, patch)
        with pytest.raises(UnsupportedModelError, match=r"cannot be read.*permissions"):
            folder_check.check_config(folder)
        folder.chmod(0o700)


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"model": 7}', "[" * 50_000])
def test_a_damaged_tokenizer_is_refused(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnsupportedModelError):
        load_model(folder, "cpu")


def test_a_pointer_in_place_of_a_tokenizer_is_told(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:5f\nsize 17210019\n"
    (folder / "tokenizer.json").write_text(pointer)
    refused(folder, "tokenizer.json", "pointer of git LFS", "17,210,019 bytes")


def test_a_tokenizer_file_elsewhere_is_not_opened(folder: Path) -> None:
    secret = _outside(folder)
    change(folder, "tokenizer_config.json", tokenizer_file=str(secret))
    with WATCH.on() as watch:
        refused(folder, "tokenizer_config.json", "tokenizer_file", "outside")
    assert watch.opened_below(secret) == []


def _sentencepiece() -> bytes:
    """A model of pieces, field by field: unknown, two marks, 256 bytes, and 24 pieces."""
    kinds = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    kinds += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    kinds += [(chr(97 + number), 1) for number in range(_PIECES)]
    content = b""
    for piece, kind in kinds:
        text = piece.encode()
        entry = b"\x0a" + bytes([len(text)]) + text + b"\x15" + bytes(4) + b"\x18" + bytes([kind])
        content += b"\x0a" + bytes([len(entry)]) + entry
    return content


def test_a_tokenizer_of_sentencepiece_alone_loads_or_is_refused_by_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    monkeypatch.setattr(folder_check, "_is_installed", lambda package: False)
    refused(folder, "sentencepiece", "tokenizer.model", "tokenizer.json")


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModelError, match="holds no tokenizer"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("family", ["llama", "custom_family"])
def test_code_that_comes_with_a_model_never_runs(folder: Path, family: str) -> None:
    mark = folder / "ran"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')")
    names = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": "code.T"}
    change(folder, auto_map=names, model_type=family)
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", "code.T"]})
    try:
        load_model(folder, "cpu")
    except UnsupportedModelError as error:
        assert "trust_remote_code=True" not in str(error)
    assert not mark.exists()


def test_an_adapter_does_not_lead_to_another_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with WATCH.on() as watch:
        refused(folder, "adapter")
    assert watch.called == []
