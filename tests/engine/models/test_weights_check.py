"""Weights that are damaged, elsewhere or pickled are named before anything of them is used."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from small_model import write_model
from watching import Watch

from nexusquant.engine import load_model
from nexusquant.engine.models import check_weights
from nexusquant.errors import UnsupportedModelError

WATCH = Watch()
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model that loads."""
    write_model(tmp_path / "model")
    return tmp_path / "model"


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(folder, "cpu")
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} in {caught.value}"


def header(folder: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    content = weights(folder).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(folder: Path, entries: object, body: bytes) -> None:
    text = json.dumps(entries).encode()
    weights(folder).write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_whole_weights_are_counted(folder: Path) -> None:
    found = check_weights(folder)
    assert found.names == ("model.safetensors",)
    model = load_model(folder, "cpu").model
    assert found.num_values == sum(parameter.numel() for parameter in model.parameters())


def test_a_pointer_is_told_with_the_bytes_of_its_file(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:3f\nsize 2471645608\n"
    weights(folder).write_bytes(pointer)
    refused(folder, "model.safetensors", "pointer of git LFS", "2,471,645,608", "git lfs pull")


@pytest.mark.parametrize("num_bytes", [40_000, -1, 2_200])
def test_cut_weights_are_told_with_what_is_there_and_what_should_be(
    folder: Path, num_bytes: int
) -> None:
    whole = weights(folder).read_bytes()
    cut = whole[:num_bytes]
    weights(folder).write_bytes(cut)
    refused(folder, "incomplete", f"{len(cut):,} of {len(whole):,} bytes", "etch")


def test_weights_cut_within_the_header_are_incomplete(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:100])
    refused(folder, "incomplete", "100 bytes")


def test_bytes_after_the_end_are_told(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes() + bytes(9))
    refused(folder, "damaged", "model.safetensors")


def test_empty_weights_are_told(folder: Path) -> None:
    weights(folder).write_bytes(b"")
    refused(folder, "model.safetensors", "empty", "0 bytes")


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"GGUF" + bytes(60), "GGUF"), (b"<!DOCTYPE html><p>No</p>", "web page"), (b"x", "1 bytes")],
)
def test_what_has_the_name_alone_is_no_safetensors_file(
    folder: Path, content: bytes, word: str
) -> None:
    weights(folder).write_bytes(content)
    refused(folder, "no safetensors file", word)


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model.pt", "consolidated.00.pth"]
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickles_are_never_opened(folder: Path, name: str, protocol: int) -> None:
    mark = folder / "was-unpickled"
    weights(folder).unlink()
    (folder / name).write_bytes(pickle.dumps(_Payload(mark), protocol=protocol))
    refused(folder, "safetensors")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../x.safetensors", "a/b.safetensors"])
def test_an_index_leads_to_safetensors_files_of_its_folder_alone(folder: Path, name: str) -> None:
    weights(folder).unlink()
    (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}})
    )
    refused(folder, INDEX, "lm_head.weight", "not opened")


@pytest.mark.parametrize(
    "strange",
    [
        *("../../etc/passwd", "/etc/passwd", "../secret.safetensors", "..\\secret.safetensors"),
        *("C:secret.safetensors", "", ".", "x\0.safetensors", 7, None, ["model-1.safetensors"], {}),
    ],
)
def test_a_shard_elsewhere_is_named_and_not_opened(folder: Path, strange: object) -> None:
    names, _ = header(folder)
    weights(folder).rename(folder / "model-1.safetensors")
    secret = folder.parent / "secret.safetensors"
    secret.write_bytes((folder / "model-1.safetensors").read_bytes())
    shards: dict[str, object] = dict.fromkeys(names, "model-1.safetensors")
    shards.pop("__metadata__", None)
    (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {**shards, min(shards): strange}})
    )
    with WATCH.on() as watch:
        refused(folder, INDEX, min(shards))
    assert watch.opened_below(secret, Path("/etc/passwd")) == []


def test_missing_shards_and_tensors_are_named(folder: Path) -> None:
    names, _ = header(folder)
    names.pop("__metadata__", None)
    weights(folder).rename(folder / "model-1.safetensors")
    shards = dict.fromkeys(names, "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert load_model(folder, "cpu").context_length == 512
    index = {"metadata": {}, "weight_map": {**shards, "model.norm.weight": "model-2.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, "model-2.safetensors", "missing")
    (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {**shards, "new": shards[min(shards)]}})
    )
    refused(folder, "model-1.safetensors", "does not hold new")
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))
    refused(folder, INDEX, "metadata is missing")


@pytest.mark.parametrize("content", ["[]", "7", "{", "{}", '{"weight_map": []}', "[" * 90_000])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    weights(folder).unlink()
    (folder / INDEX).write_text(content)
    refused(folder, INDEX)


@pytest.mark.parametrize("length", [0, 1, 10**8 + 1, 2**31, 2**63, 2**64 - 1])
def test_a_lie_about_the_headers_length_takes_no_memory(folder: Path, length: int) -> None:
    weights(folder).write_bytes(struct.pack("<Q", length) + weights(folder).read_bytes()[8:])
    refused(folder, "model.safetensors")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *(("data_offsets", places) for places in ([0, 4], [-4, 0], [0, 2**60], [8, 4], [], "0")),
        ("data_offsets", [0.5, 1]),
        *(("dtype", kind) for kind in ("F64", "BF16", "Q4", None, ["F32"], {}, 3)),
        *(("shape", sizes) for sizes in ([], [0], [2**40, 2**40], [-1], [1.5], "8", None, [True])),
    ],
)
def test_a_header_that_lies_of_a_tensor_is_refused(folder: Path, entry: str, value: object) -> None:
    entries, body = header(folder)
    entries["model.embed_tokens.weight"][entry] = value
    write_header(folder, entries, body)
    refused(folder, "model.safetensors", "damaged")


@pytest.mark.parametrize("value", [None, 7, "x", [], [[]], {}, {"dtype": "F32"}])
def test_an_entry_of_a_header_that_is_none_is_refused(folder: Path, value: object) -> None:
    entries, body = header(folder)
    write_header(folder, {**entries, "model.norm.weight": value}, body)
    refused(folder, "model.safetensors", "damaged")


@pytest.mark.parametrize("other", [[], 7, "text", None])
def test_a_header_that_is_no_object_is_refused(folder: Path, other: object) -> None:
    _, body = header(folder)
    write_header(folder, other, body)
    refused(folder, "model.safetensors")


def test_tensors_that_lie_over_one_another_are_refused(folder: Path) -> None:
    entries, body = header(folder)
    same = entries["model.layers.0.input_layernorm.weight"]["data_offsets"]
    entries["model.layers.1.input_layernorm.weight"]["data_offsets"] = same
    write_header(folder, entries, body)
    refused(folder, "damaged", "begins at byte")


def test_a_tensor_that_is_missing_is_not_drawn_at_random(folder: Path) -> None:
    entries, body = header(folder)
    begin, end = entries.pop("model.norm.weight")["data_offsets"]
    for entry in entries.values():
        places = entry.get("data_offsets")
        if places and places[0] >= end:
            entry["data_offsets"] = [place - (end - begin) for place in places]
    write_header(folder, entries, body[:begin] + body[end:])
    refused(folder, "config")


@pytest.mark.parametrize("entry", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused(
    folder: Path, entry: str
) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, entry: config[entry] * 2, "layer_types": None}))
    refused(folder, "model.safetensors", "fetch the model again")


def test_a_tensor_under_another_name_is_missed(folder: Path) -> None:
    entries, body = header(folder)
    name = "model.layers.1.self_attn.q_proj.weight"
    write_header(folder, {key.replace(name, f"{name}2"): e for key, e in entries.items()}, body)
    refused(folder, name)
