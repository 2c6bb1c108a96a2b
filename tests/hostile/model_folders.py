"""Hostile model folders and names: damaged, lying, endless, leading elsewhere, holding code.

Knows what a small model's folder looks like, and what may come back: a model that answers, or one
clear sentence. Must not know how folders are checked.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from attempt import Attempt
from pasted_names import pasted_name
from small_model import write_model
from transformers import CONFIG_MAPPING
from watching import Watch

from nexusquant.engine import load_model
from nexusquant.engine.model_loader import check_loadable
from nexusquant.engine.models import understood
from nexusquant.errors import NexusquantError, OutOfMemoryError, UnsupportedModelError

_MOST_SENTENCE = 1500
_JUNK: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**30, -(2**70), 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "llama", "16", "None", "\ud83d", "a\0b", "../x", "x" * 9000),
    *([], [1], ["</s>"], [[1]], [None], {}, {"a": 1}, {"model_type": "llama"}, "eager", "gpt_oss"),
)
_NAMES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors", "chat_template.jinja"),
)


class _Payload:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._mark,)


class _Grounds:
    """A good model, secrets that nothing may open, and folders made of the two."""

    def __init__(self, folder: Path) -> None:
        self.root, self.good, self.secrets = folder, folder / "good", folder / "secrets"
        self.mark, self.watch = folder / "was-unpickled", Watch()
        write_model(self.good)
        self.secrets.mkdir()
        for name in _NAMES:
            shutil.copy(self.good / name, self.secrets / name)

    def copy(self, number: int) -> Path:
        target = self.root / f"model-{number}"
        shutil.copytree(self.good, target)
        return target

    def pickle(self) -> bytes:
        return pickle.dumps(_Payload(self.mark))


def attempts(rng: random.Random, count: int, folder: Path) -> Iterator[Attempt]:
    """Make folders and names of all kinds; each is loaded as a person would load it.

    Args:
        rng: Everything is drawn from it.
        count: How many.
        folder: Where the folders are written; each is removed after its attempt.
    """
    grounds = _Grounds(folder)
    for number in range(count):
        if rng.random() < 0.15:
            name = pasted_name(rng, grounds.good)
            yield Attempt(f"{number}-name {name[:80]!r}", _naming(grounds, name))
            continue
        kind = rng.choice(_KINDS)
        model = grounds.copy(number)
        what = kind(rng, model, grounds)
        name = f"{number}-{kind.__name__.strip('_')} {str(what)[:100]!r}"
        yield Attempt(name, _loading(grounds, model))


def _naming(grounds: _Grounds, name: str) -> Callable[[], str]:
    def run() -> str:
        with grounds.watch.on() as watch:
            try:
                found = understood(name)
            except UnsupportedModelError as error:
                _check_sentence(str(error))
                return "refused"
        assert found.strip() == found, found
        assert not watch.called, watch.called
        return "right"

    return run


def _loading(grounds: _Grounds, model: Path) -> Callable[[], str]:
    def run() -> str:
        try:
            with grounds.watch.on() as watch:
                ending = _load(model)
            outside = watch.opened_below(grounds.secrets, Path("/etc/passwd"))
            assert not outside, f"opened {outside}"
            assert not watch.called, f"called {watch.called}"
            assert not grounds.mark.exists(), "a pickle was opened"
            return ending
        finally:
            shutil.rmtree(model)

    return run


def _load(model: Path) -> str:
    try:
        check_loadable(model, "cpu", "auto")
        loaded = load_model(model, "cpu")
    except NexusquantError as error:
        assert isinstance(error, (UnsupportedModelError, OutOfMemoryError)), type(error)
        _check_sentence(str(error))
        return "refused"
    assert all(isinstance(token, int) for token in loaded.end_ids), loaded.end_ids
    assert isinstance(loaded.context_length, int), loaded.context_length
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape[:2] == (1, 3), logits.shape
    return "right"


def _check_sentence(sentence: str) -> None:
    assert 10 < len(sentence) < _MOST_SENTENCE, sentence[:500]
    assert sentence.rstrip().endswith((".", ")")), sentence
    assert "Traceback" not in sentence, sentence
    assert "trust_remote_code=True" not in sentence, sentence
    sentence.encode()


def _node(rng: random.Random, tree: object) -> tuple[object, object] | None:
    """A place in nested JSON: what holds it, and its name or number there."""
    places: list[tuple[object, object]] = []
    waiting = [tree]
    while waiting and len(places) < 2000:
        holder = waiting.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        for key in list(keys)[:50]:
            places.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])
    return rng.choice(places) if places else None


def _mutate_json(rng: random.Random, path: Path) -> str:
    tree, done = json.loads(path.read_text(encoding="utf-8")), []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = _node(rng, tree)
        if place is None:
            break
        holder, key = place
        if rng.random() < 0.2:
            del holder[key]
            done.append(f"-{key}")
        else:
            holder[key] = rng.choice(_JUNK)
            done.append(f"{key}={str(holder[key])[:30]}")
    path.write_text(json.dumps(tree), encoding="utf-8")
    return f"{path.name} {done}"


def _entry(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    return _mutate_json(rng, model / "config.json")


def _tokenizer_entry(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    return _mutate_json(rng, model / rng.choice(names))


def _new_entry(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    outside = str(grounds.secrets / "tokenizer.json")
    code = {"AutoConfig": "code.X", "AutoModelForCausalLM": "code.Y", "AutoTokenizer": "code.Z"}
    (model / "code.py").write_text(f"open({str(grounds.mark)!r}, 'w')")
    name, key, value = rng.choice(
        [
            ("config.json", "auto_map", code),
            ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["code.Z", "code.Z"]}),
            ("config.json", "transformers_weights", str(grounds.secrets / "model.safetensors")),
            ("config.json", "_name_or_path", str(grounds.secrets)),
            ("tokenizer_config.json", "tokenizer_file", outside),
            ("tokenizer_config.json", "vocab_file", "../secrets/tokenizer.json"),
            ("tokenizer_config.json", "fast_tokenizer_files", ["../secrets/tokenizer.4.0.0.json"]),
            ("tokenizer_config.json", "fast_tokenizer_files", rng.choice(_JUNK)),
            ("tokenizer_config.json", "tokenizer_class", rng.choice(_JUNK)),
            ("tokenizer_config.json", "chat_template", rng.choice(_JUNK)),
            ("tokenizer_config.json", "added_tokens_decoder", rng.choice(_JUNK)),
            ("config.json", "quantization_config", rng.choice(_JUNK)),
            ("config.json", "rope_scaling", rng.choice(_JUNK)),
            ("config.json", "layer_types", rng.choice(_JUNK)),
            ("config.json", "per_layer_config", rng.choice(_JUNK)),
            ("config.json", "text_config", rng.choice(_JUNK)),
            ("config.json", "dtype", rng.choice(("load", "Tensor", "float7", "int4", 3))),
            ("config.json", "num_experts", rng.choice((10**6, -4, "many"))),
            ("generation_config.json", "eos_token_id", rng.choice(_JUNK)),
            ("generation_config.json", "cache_implementation", rng.choice(_JUNK)),
        ]
    )
    if key == "auto_map" and rng.random() < 0.5:
        _set(model / name, "model_type" if name == "config.json" else "tokenizer_class", "custom")
    _set(model / name, key, value)
    return f"{name} {key}={str(value)[:50]}"


def _set(path: Path, key: str, value: object) -> None:
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**tree, key: value}), encoding="utf-8")


def _other_family(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    family = rng.choice(sorted(CONFIG_MAPPING.keys()))
    _set(model / "config.json", "model_type", family)
    return family


def _random_json(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    name = rng.choice([name for name in _NAMES if name.endswith(".json")])
    deep = rng.choice((20, 500, 5000, 100_000))
    content = rng.choice(
        (
            *(
                "",
                "[]",
                "7",
                "null",
                '"llama"',
                "{",
                "{}",
                "[NaN]",
                '{"model_type": NaN}',
                "\ufeff{}",
            ),
            *("[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep),
            *('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", "true", "\0\0"),
        )
    )
    (model / name).write_text(content, encoding="utf-8")
    return f"{name} {content[:40]}"


def _damaged_bytes(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    path = model / rng.choice(_NAMES)
    data = bytearray(path.read_bytes())
    action = rng.choice(("cut", "flip", "insert", "empty", "tail", "zeros"))
    place = rng.randrange(rng.choice((len(data), min(len(data), 200))))
    if action == "cut":
        del data[place:]
    elif action == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif action == "insert":
        data[place:place] = rng.randbytes(rng.randrange(1, 9))
    elif action == "tail":
        data += rng.randbytes(rng.choice((1, 8, 5000)))
    else:
        data = bytearray(0 if action == "empty" else len(data))
    path.write_bytes(data)
    return f"{path.name} {action} {place}"


def _other_content(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    path = model / rng.choice(_NAMES)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:3f3f\nsize "
    content = rng.choice(
        (
            grounds.pickle(),
            pointer + str(rng.choice((5, 2471645608, "many"))).encode(),
            b"GGUF" + bytes(60),
            b"<!DOCTYPE html><html>Access denied</html>",
            b"PK\x03\x04" + rng.randbytes(50),
            b" " * 60_000_000,
            rng.randbytes(rng.choice((1, 7, 8, 9, 1000))),
        )
    )
    path.write_bytes(content)
    return f"{path.name} {content[:20]!r}"


def _pickles(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    (model / "model.safetensors").unlink()
    name = rng.choice(("pytorch_model.bin", "model.pt", "consolidated.00.pth", "tf_model.h5"))
    (model / name).write_bytes(grounds.pickle())
    if rng.random() < 0.5:
        index = {"weight_map": {"lm_head.weight": name}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return name


def _header(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    path = model / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name, how = rng.choice(names), rng.randrange(9)
    entry = header[name]
    if how == 0:
        length_told = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        path.write_bytes(struct.pack("<Q", length_told) + data[8:])
        return f"length {length_told}"
    if how == 1:
        entry["data_offsets"] = rng.choice(([0, 4], [-4, 0], [0, 2**60], [8, 4], [], "0", [0.5, 1]))
    elif how == 2:
        entry["dtype"] = rng.choice(("F64", "BF16", "I32", "Q4", None, ["F32"], "F32 "))
    elif how == 3:
        entry["shape"] = rng.choice(([], [0], [2**40, 2**40], [-1], [1.5], "8", None, [True, 2]))
    elif how == 4:
        header[rng.choice(names)]["data_offsets"] = entry["data_offsets"]
    elif how == 5:
        header["new"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    elif how == 6:
        del header[name]
    elif how == 7:
        header[name] = rng.choice(_JUNK)
    else:
        header["__metadata__"] = rng.choice(_JUNK)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return f"header {name} {how} {str(header.get(name))[:60]}"


def _index(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    whole = model / "model.safetensors"
    header = json.loads(whole.read_bytes()[8:][: struct.unpack("<Q", whole.read_bytes()[:8])[0]])
    names = [name for name in header if name != "__metadata__"]
    whole.rename(model / "model-1.safetensors")
    weight_map: dict[str, object] = dict.fromkeys(names, "model-1.safetensors")
    outside = str(grounds.secrets / "model.safetensors")
    strange = ("../../etc/passwd", "/etc/passwd", "../secrets/model.safetensors", outside)
    other = ("model-2.safetensors", "..\\x.safetensors", "", ".", "x.bin", *_JUNK)
    for name in rng.sample(names, rng.choice((0, 1, 3))):
        weight_map[name] = rng.choice((*strange, *other))
    index: object = {"metadata": {}, "weight_map": weight_map}
    if rng.random() < 0.2:
        index = rng.choice((*_JUNK, {"weight_map": rng.choice(_JUNK)}))
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return str([name for name in weight_map.values() if name != "model-1.safetensors"])


def _elsewhere(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    path = model / rng.choice(_NAMES)
    path.unlink()
    kind = rng.choice(("outside", "loop", "nowhere", "folder", "pipe", "device", "missing", "self"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "self":
        shutil.copy(grounds.good / path.name, model / f"real-{path.name}")
        path.symlink_to(f"real-{path.name}")
    elif kind != "missing":
        targets = {"outside": grounds.secrets / path.name, "loop": path, "device": "/dev/zero"}
        path.symlink_to(targets.get(kind, model / "nowhere"))
    return f"{path.name} {kind}"


def _sizes(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    sizes = {
        name: rng.choice((0, 1, 3, 8, 24, 33, 4096, 10**6, 10**9))
        for name in rng.sample(
            (
                *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
                *("num_attention_heads", "num_key_value_heads", "head_dim"),
                *("max_position_embeddings",),
            ),
            rng.choice((1, 2, 4)),
        )
    }
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **sizes}))
    return str(sizes)


def _adapter(rng: random.Random, model: Path, grounds: _Grounds) -> str:
    base = rng.choice((str(grounds.secrets), "somebody/else", 7))
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return str(base)


_KINDS = (
    *(_entry, _entry, _tokenizer_entry, _tokenizer_entry, _new_entry, _other_family, _random_json),
    *(_damaged_bytes, _other_content, _pickles, _header, _header, _index, _elsewhere, _sizes),
    *(_adapter,),
)
