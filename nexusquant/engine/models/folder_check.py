"""Config and tokenizer of a model's folder, looked at before transformers opens them.

Knows the entries of configs. Must not know models' classes, weights, or transformers: what is
senseless is named here, since it would fail there in a hundred ways, some of them after hours.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from nexusquant.engine.models.small_files import (
    exists,
    printable,
    read_object,
    refuse_pointer,
    size_in_folder,
)
from nexusquant.errors import UnsupportedModelError

_MOST_CONFIG_BYTES = 5_000_000
_MOST_JSON_BYTES = 20_000_000
_MOST_WORDS_BYTES = 300_000_000

_OTHER_SETTINGS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "processor_config.json", "preprocessor_config.json"),
)
_WORDS = ("tokenizer.json", "vocab.json", "tekken.json")
_TEXTS = ("merges.txt", "vocab.txt", "chat_template.jinja", "tokenizer.model", "spiece.model")
_SENTENCEPIECE = ("tokenizer.model", "spiece.model")
_FULL = (*_WORDS, "vocab.txt")
# what transformers takes for the name of a file, if a config of a tokenizer says so
_FILE_ENTRIES = ("vocab_file", "tokenizer_file", "merges_file", "spm_file", "sp_model_file")

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "n_head_kv", "num_kv_heads")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_WIDTHS = (
    *("hidden_size", "n_embd", "d_model", "head_dim", "global_head_dim", "v_head_dim"),
    *("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size"),
)
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "sliding_window", "vocab_size")
# far beyond every model there is; what is above would take hours to be laid out
_MOST = {
    **dict.fromkeys(_LAYERS, 1_000),
    **dict.fromkeys(_EXPERTS, 4_096),
    **dict.fromkeys((*_HEADS, *_KV_HEADS), 4_096),
    **dict.fromkeys(_WIDTHS, 2_000_000),
    **dict.fromkeys(_LENGTHS, 10**12),
    "vocab_size": 50_000_000,
}
_MOST_MODULES = 100_000
_MOST_NUMBER = 2**63
_DEEPEST = 24
_TOKEN_IDS = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
_DTYPE = re.compile(r"(torch\.)?(auto|float(16|32|64)|bfloat16|half|float|float8_\w{1,12})")


def check_config(folder: Path) -> None:
    """Refuse a folder whose config cannot be one, with the entry named.

    Args:
        folder: Of the model; its weights need not be there.

    Raises:
        UnsupportedModelError: It cannot; the message says what is wrong.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UnsupportedModelError(
            f"The folder {folder} cannot be read ({error.strerror or error}). Check its "
            "permissions, or choose another folder."
        ) from error
    if "config.json" not in names:
        raise UnsupportedModelError(_no_config(folder, names))
    if "adapter_config.json" in names:
        raise UnsupportedModelError(
            f"{folder} holds adapter_config.json: an adapter (LoRA), which changes another model. "
            "Merge it into its model first, or remove that file if the weights are whole."
        )
    _check_entries("config.json", read_object(folder / "config.json", _MOST_CONFIG_BYTES))
    if "generation_config.json" in names:
        found = read_object(folder / "generation_config.json", _MOST_CONFIG_BYTES)
        for path, entry in _walk("generation_config.json", found):
            _check_number(path, entry)
        _check_token_ids("generation_config.json", found)


def _no_config(folder: Path, names: list[str]) -> str:
    what = "Give a Hugging Face id or a local folder with safetensors weights and a tokenizer."
    if any(name.lower().endswith(".gguf") for name in names):
        return f"{folder} holds a GGUF file, which is another format. {what}"
    if "adapter_config.json" in names:
        return f"{folder} holds an adapter (LoRA) without its model. {what}"
    return f"{folder} holds no config.json, so it is no model's folder. {what}"


def _check_entries(place: str, config: Mapping[str, object]) -> None:
    for path, entry in _walk(place, config):
        _check_number(path, entry)
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise _senseless(place, "model_type", config.get("model_type"), "the name of a family")
    if "transformers_weights" in config:
        raise _senseless(place, "transformers_weights", config["transformers_weights"], "left out")
    _check_section(place, config)
    for name, entry in config.items():
        if name.endswith("text_config") and isinstance(entry, Mapping):
            _check_section(f"{place}: {name}", entry)
        elif name.endswith("text_config") and entry is not None:
            raise _senseless(place, name, entry, "an object")


def _check_section(place: str, config: Mapping[str, object]) -> None:
    for name, most in _MOST.items():
        _check_size(place, config, name, most)
    _check_dtypes(place, config)
    for name in ("rope_scaling", "rope_parameters", "quantization_config"):
        found = config.get(name)
        if found is not None and not isinstance(found, Mapping):
            raise _senseless(place, name, found, "an object or left out")
    for name in ("hidden_act", "hidden_activation", "activation_function"):
        found = config.get(name)
        if found is not None and not isinstance(found, str):
            raise _senseless(place, name, found, "the name of a function such as silu")
    types = config.get("layer_types")
    if types is not None and not (
        isinstance(types, list) and all(isinstance(kind, str) for kind in types)
    ):
        raise _senseless(place, "layer_types", types, "a list of names")
    _check_token_ids(place, config)
    layers, experts = (_largest(config, names) for names in (_LAYERS, _EXPERTS))
    if layers * experts > _MOST_MODULES:
        raise UnsupportedModelError(
            f"{place} asks for {layers:,} layers of {experts:,} experts each, more than any model "
            "has. Fetch the model again."
        )


def _check_dtypes(place: str, config: Mapping[str, object]) -> None:
    for name in ("dtype", "torch_dtype"):
        found = config.get(name)
        # models of several parts may give one for each
        for dtype in found.values() if isinstance(found, dict) and found else [found]:
            if dtype is not None and not (isinstance(dtype, str) and _DTYPE.fullmatch(dtype)):
                raise _senseless(place, name, found, "a type of numbers such as bfloat16")


def _check_size(place: str, config: Mapping[str, object], name: str, most: int) -> None:
    found = config.get(name)
    # a few families give a size for each layer
    for size in found if isinstance(found, list) and found else [found]:
        if size is None:
            continue
        # no window and no limit are sometimes written as 0 or -1
        least = -1 if name in ("sliding_window", "n_inner") else 1
        is_number = isinstance(size, int) and not isinstance(size, bool)
        if name in _EXPERTS:
            least = 0
        if not is_number or not least <= size <= most:
            raise _senseless(place, name, found, f"a whole number from {least} to {most:,}")


def _check_token_ids(place: str, config: Mapping[str, object]) -> None:
    for name in _TOKEN_IDS:
        found = config.get(name)
        for token in found if isinstance(found, list) else [found]:
            is_id = isinstance(token, int) and not isinstance(token, bool) and token >= -1
            if not is_id and (token is not None or isinstance(found, list)):
                raise _senseless(place, name, found, "the number of a token, or several")


def _largest(config: Mapping[str, object], names: tuple[str, ...]) -> int:
    found = (config.get(name) for name in names)
    return max((number for number in found if isinstance(number, int)), default=0)


def _check_number(path: str, entry: object) -> None:
    # "no limit" of the time steps of some layers is written as Infinity
    if isinstance(entry, float) and not math.isfinite(entry) and "time_step" not in path:
        raise UnsupportedModelError(
            f"{path} is {entry}, which is no number to compute with. Fetch the model again."
        )
    if isinstance(entry, int) and abs(entry) >= _MOST_NUMBER:
        raise UnsupportedModelError(
            f"{path} is a number of {len(str(abs(entry)))} digits, which nothing counts. Fetch the "
            "model again."
        )


def _walk(place: str, found: object) -> Iterator[tuple[str, object]]:
    """Every value of nested JSON with the way to it."""
    waiting = [(place, found, 0)]
    while waiting:
        where, entry, depth = waiting.pop()
        if depth > _DEEPEST:
            raise UnsupportedModelError(
                f"{place} is nested more than {_DEEPEST} deep, which no config is. Fetch the model "
                "again."
            )
        if isinstance(entry, dict):
            ways = ((f"{where}: {printable(name, 60)}", found) for name, found in entry.items())
            waiting += [(way, found, depth + 1) for way, found in ways]
        elif isinstance(entry, list):
            waiting += [(where, found, depth + 1) for found in entry]
        else:
            yield where, entry


def _senseless(place: str, name: str, found: object, wanted: str) -> UnsupportedModelError:
    shown = "missing" if found is None else printable(repr(found), 60)
    return UnsupportedModelError(
        f"{place}: {name} is {shown}, and must be {wanted}. Correct the file or fetch the model "
        "again."
    )


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder with tokenizer's files that cannot be opened here.

    Args:
        folder: Of the model; its weights need not be there.

    Raises:
        UnsupportedModelError: The message names the file.
    """
    for name in (*_OTHER_SETTINGS, *_WORDS):
        if exists(folder / name):
            most = _MOST_WORDS_BYTES if name in _WORDS else _MOST_JSON_BYTES
            found = read_object(folder / name, most)
            if name == "tokenizer_config.json":
                _check_tokenizer_config(folder, found)
    for path in (*(folder / name for name in _TEXTS), *_more_templates(folder)):
        if exists(path):
            _check_text(path)
    if not any(exists(folder / name) for name in _FULL):
        _check_sentencepiece(folder)


def check_has_tokenizer(folder: Path) -> None:
    """Refuse a folder without any tokenizer, for which transformers makes an empty one.

    Args:
        folder: Of the model.

    Raises:
        UnsupportedModelError: It has none.
    """
    if not any(exists(folder / name) for name in (*_FULL, *_SENTENCEPIECE)):
        raise UnsupportedModelError(
            f"{folder} holds no tokenizer. Give a Hugging Face id or a local folder with "
            "safetensors weights and a tokenizer (tokenizer.json)."
        )


def _check_tokenizer_config(folder: Path, found: Mapping[str, object]) -> None:
    name = "tokenizer_config.json"
    for entry in ("tokenizer_class", "tokenizer_type"):
        if found.get(entry) is not None and not isinstance(found[entry], str):
            raise _senseless(name, entry, found[entry], "a name")
    versions = found.get("fast_tokenizer_files") or []
    if not isinstance(versions, list) or not all(map(_is_plain, versions)):
        raise _senseless(name, "fast_tokenizer_files", versions, "a list of names of files")
    for entry in _FILE_ENTRIES:
        value = found.get(entry)
        # one that is not there does no harm: many were written on other computers
        if isinstance(value, str) and not _is_plain(value) and exists(Path(value)):
            raise UnsupportedModelError(
                f"{name}: {entry} is {printable(value)}, a file outside the model's folder, which "
                "was not opened. Remove the entry."
            )


def _more_templates(folder: Path) -> list[Path]:
    more = folder / "additional_chat_templates"
    if not exists(more):
        return []
    if more.is_symlink() or not more.is_dir():
        raise UnsupportedModelError(
            "additional_chat_templates is no folder of its own, and was not opened."
        )
    return sorted(more.glob("*.jinja"))


def _check_text(path: Path) -> None:
    num_bytes = size_in_folder(path)
    most = _MOST_JSON_BYTES if path.suffix == ".jinja" else _MOST_WORDS_BYTES
    if num_bytes > most:
        raise UnsupportedModelError(
            f"{path.name} has {num_bytes:,} bytes, and such a file never needs more than {most:,}."
        )
    with path.open("rb") as file:
        refuse_pointer(path, file.read(1024))


def _check_sentencepiece(folder: Path) -> None:
    found = [name for name in _SENTENCEPIECE if exists(folder / name)]
    packages = ("sentencepiece", "google.protobuf")
    if found and not all(map(_is_installed, packages)):
        raise UnsupportedModelError(
            f"The only tokenizer of {folder.name} is {found[0]}, in sentencepiece's format, which "
            "cannot be read here without the packages sentencepiece and protobuf. Add the model's "
            "tokenizer.json to the folder, or install the two with pip."
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and "\\" not in name
