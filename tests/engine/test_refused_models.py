"""Models that cannot work here are refused in a sentence: by config, tokenizer or weights."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import write_model

from nexusquant.config import PRESETS
from nexusquant.engine import load_model, plan_memory
from nexusquant.engine.model_loader import check_loadable
from nexusquant.engine.weights import Precision
from nexusquant.errors import UnsupportedModelError

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
TWO_KINDS = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:3f3f\nsize 2471645608\n"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model that loads."""
    write_model(tmp_path / "model")
    return tmp_path / "model"


def write_config(folder: Path, config: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        call()
    assert "trust_remote_code" not in str(caught.value)
    return str(caught.value)


def by_config(folder: Path, config: object) -> str:
    return refusal(lambda: check_loadable(write_config(folder, config), "cpu", "auto"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gpt_oss", **SIZES, **EXPERTS, **TWO_KINDS}, "s_aux"),
        ({"model_type": "granite_swa", **SIZES}, "s_aux"),
        ({"model_type": "flint", **SIZES}, "s_aux"),
        ({"model_type": "bloom", "vocab_size": 300, "n_layer": 2, "n_head": 4}, "of its own"),
        ({"model_type": "falcon", "vocab_size": 300, "num_hidden_layers": 2}, "Falcon"),
        ({"model_type": "falcon", "alibi": True, "num_hidden_layers": 2}, "Falcon"),
        ({"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 2}, "of its own"),
        ({"model_type": "codegen", "n_embd": 64, "n_layer": 2, "n_head": 4}, "of its own"),
        ({"model_type": "bert", **SIZES}, "encoder"),
        ({"model_type": "roberta", **SIZES}, "encoder"),
        ({"model_type": "electra", **SIZES}, "encoder"),
        ({"model_type": "vit", "hidden_size": 64}, "does not write text"),
        ({"model_type": "clip"}, "text"),
        ({"model_type": "nobody-knows-this", **SIZES}, "nobody-knows-this"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_attention_that_packed_pages_cannot_serve_is_refused_by_the_config(
    tmp_path: Path, config: dict[str, object], reason: str
) -> None:
    assert reason in by_config(tmp_path, config)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text"])
def test_usual_families_pass(tmp_path: Path, family: str) -> None:
    # layers of all kinds are given, and a window that hides nothing
    config = {"model_type": family, **SIZES, "sliding_window": 4096, "pad_token_id": 0}
    check_loadable(write_config(tmp_path, config), "cpu", "auto")


@pytest.mark.parametrize("family", ["gpt_oss", "falcon"])
def test_no_plan_is_made_for_what_cannot_work(family: str) -> None:
    from transformers import AutoConfig

    sizes = {**SIZES, **EXPERTS} if family == "gpt_oss" else {"num_hidden_layers": 2}
    config = AutoConfig.for_model(family, **sizes)
    refusal(lambda: plan_memory(config, PRESETS["safe"], Precision.BFLOAT16))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -4),
        ("num_key_value_heads", 0),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", True),
        ("hidden_size", 1.5),
        ("vocab_size", "300"),
        ("vocab_size", 10**40),
        ("max_position_embeddings", "long"),
        ("model_type", ["llama"]),
        ("model_type", None),
        ("eos_token_id", ["</s>"]),
        ("eos_token_id", "</s>"),
        ("pad_token_id", {"a": 1}),
        ("dtype", "load"),
        ("torch_dtype", 16),
        ("rope_scaling", "linear"),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("hidden_act", 3),
        ("layer_types", "full"),
        ("text_config", [1]),
        ("use_cache", "perhaps"),
        ("transformers_weights", "../other/model.safetensors"),
    ],
)
def test_a_senseless_entry_is_named(tmp_path: Path, name: str, value: object) -> None:
    assert name in by_config(tmp_path, {"model_type": "llama", **SIZES, name: value})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "holds a list"),
        ("7", "holds a number"),
        ("null", "holds a null"),
        ("", "no JSON"),
        ('{"model_type": "llama"', "no JSON"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested"),
        ("[" * 100_000, "nested"),
        ('{"vocab_size": ' + "9" * 9000 + "}", "no JSON"),
        (" " * 50_000_000 + "{}", "50,000,002 bytes"),
    ],
    ids=["list", "number", "null", "empty", "cut", "deep", "deeper", "digits", "50 MB"],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    message = by_config(tmp_path, text)
    assert message.startswith("config.json")
    assert reason in message


def test_code_that_came_with_a_model_is_never_run(folder: Path) -> None:
    mark = folder.parent / "was-run"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    assert load_model(write_config(folder, config), "cpu").model.config.model_type == "llama"
    assert "custom" in by_config(folder, {**config, "model_type": "custom"})
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (lambda whole: POINTER, ["pointer of git LFS", "2,471,645,608"]),
        (lambda whole: whole[:40_000], ["incomplete", "40,000 of 130,"]),
        (lambda whole: whole[:-1], ["incomplete"]),
        (lambda whole: whole[:30], ["incomplete"]),
        (lambda whole: b"", ["empty"]),
        (lambda whole: whole + b"\0", ["damaged"]),
        (lambda whole: bytes(len(whole)), ["no safetensors"]),
        (lambda whole: b"<!DOCTYPE html><html></html>", ["web page"]),
        (lambda whole: struct.pack("<Q", 2**63) + whole[8:], ["no safetensors"]),
        (lambda whole: whole.replace(b'"F32"', b'"F64"', 1), ["damaged", "F64"]),
        (lambda whole: whole.replace(b"[258,32]", b"[258,64]", 1), ["damaged"]),
        (lambda whole: whole.replace(b'offsets":[0,', b'offsets":[4,', 1), ["damaged"]),
    ],
    ids=[
        "pointer",
        "cut",
        "one",
        "head",
        "empty",
        "more",
        "zeros",
        "page",
        "length",
        "dtype",
        "shape",
        "offset",
    ],
)
def test_damaged_weights_are_named_with_their_bytes(
    folder: Path, change: Callable[[bytes], bytes], reasons: list[str]
) -> None:
    path = folder / WEIGHTS
    path.write_bytes(change(path.read_bytes()))
    message = refusal(lambda: load_model(folder, "cpu"))
    assert WEIGHTS in message
    assert all(reason in message for reason in reasons), message


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "model.pt"])
def test_a_pickle_is_never_opened(folder: Path, name: str) -> None:
    mark = folder.parent / "was-unpickled"
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(_Payload(mark)))
    assert "pickle" in refusal(lambda: load_model(folder, "cpu"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "..\\x.safetensors", "../model.safetensors", 7, None],
)
def test_an_index_cannot_name_files_outside_its_folder(folder: Path, name: object) -> None:
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": name}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert "was not opened" in refusal(lambda: load_model(folder, "cpu"))


def test_a_missing_shard_or_tensor_is_named(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-2.safetensors"}})
    )
    assert "model-2.safetensors is missing" in refusal(lambda: load_model(folder, "cpu"))
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"other.weight": "model-1.safetensors"}})
    )
    assert "does not hold other.weight" in refusal(lambda: load_model(folder, "cpu"))


def test_weights_of_a_smaller_model_are_not_filled_up(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_config(folder, {**config, "hidden_size": 1_000_000})
    assert "config.json describes a model of" in refusal(lambda: load_model(folder, "cpu"))


def test_a_missing_weight_is_not_drawn_at_random(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.7.self_attn.q_proj.weight"] = tensors.pop(
        "model.layers.1.self_attn.q_proj.weight"
    )
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert "layers.1.self_attn.q_proj" in refusal(lambda: load_model(folder, "cpu"))


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", WEIGHTS])
@pytest.mark.parametrize("kind", ["outside", "loop", "pipe", "folder", "device"])
def test_only_regular_files_of_the_folder_are_opened(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    if kind in ("pipe", "folder"):
        path.unlink()
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    else:
        path.rename(folder.parent / name)
        targets = {"outside": folder.parent / name, "loop": path, "device": Path("/dev/zero")}
        path.symlink_to(targets[kind])
    assert name in refusal(lambda: load_model(folder, "cpu"))


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b/snapshots/1"
    write_model(blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert load_model(snapshot, "cpu").context_length == 512


def test_a_tokenizer_only_sentencepiece_reads_is_named_before_the_weights(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    (folder / WEIGHTS).unlink()
    message = refusal(lambda: check_loadable(folder, "cpu", "auto"))
    assert "sentencepiece" in message
    assert "tiktoken" not in message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 7}', "[" * 9000, "\ufeff"])
def test_a_damaged_tokenizer_is_named(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    assert "tokenizer" in refusal(lambda: load_model(folder, "cpu"))


def test_a_folder_without_a_tokenizer_gets_no_empty_one(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer" in refusal(lambda: load_model(folder, "cpu"))


def test_a_tokenizer_cannot_name_files_outside_its_folder(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    other = folder.parent / "other.json"
    other.write_text("{}")
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_file": str(other)}))
    assert "outside the model's folder" in refusal(lambda: load_model(folder, "cpu"))


def test_an_adapter_does_not_lead_to_another_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    assert "adapter" in refusal(lambda: load_model(folder, "cpu"))
