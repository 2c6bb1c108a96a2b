from __future__ import annotations

import json

import pytest
import tiny_models
import torch
from driving import EVICTING
from safetensors import safe_open
from safetensors.torch import save_file

from nexusquant import CacheStateError, CompressedCache, load_cache

document = tiny_models.token_ids(300)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def rewrite(path, change):
    """Let `change(tensors, header)` lie."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["nexusquant"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(tensors, header)
    save_file(tensors, str(path), metadata={"nexusquant": json.dumps(header)})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(model, saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CacheStateError):
        load_cache(saved, model)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(model, tmp_path, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (5000,), generator=generator, dtype=torch.uint8)
    path = tmp_path / "noise.nxq"
    path.write_bytes(bytes(noise.tolist()))
    with pytest.raises(CacheStateError):
        load_cache(path, model)


def test_someone_elses_safetensors_file_is_refused(model, tmp_path):
    for metadata in (None, {"nexusquant": "no json"}, {"nexusquant": "[]"}, {"nexusquant": '"x"'}):
        save_file({"weight": torch.ones(3)}, str(tmp_path / "weights"), metadata=metadata)
        with pytest.raises(CacheStateError):
            load_cache(tmp_path / "weights", model)


def _set(name, change):
    return lambda tensors, header: tensors.update({name: change(tensors[name])})


def _record(name, value):
    return lambda tensors, header: header["layers"][1].update({name: value})


def _shifted(table):
    moved = torch.full_like(table, -1)
    moved[:, 1:] = table[:, :-1]
    return moved


LIES = {
    "table past the pool": _set("1.page_table", lambda table: table + 1),
    "table far below zero": _set("1.page_table", lambda table: table - 1000),
    "table with a gap": _set("1.page_table", _shifted),
    "table with a page twice": _set("1.page_table", torch.zeros_like),
    "table of floats": _set("1.page_table", lambda table: table.float()),
    "table of one dimension": _set("1.page_table", lambda table: table[0].clone()),
    "table of fewer heads": _set("1.page_table", lambda table: table[:1].clone()),
    "lengths too long": _record("page_lengths", [10_000, 10_000]),
    "lengths negative": _record("page_lengths", [-1, 5]),
    "lengths of fewer heads": _record("page_lengths", [5]),
    "lengths of text": _record("page_lengths", ["5", "5"]),
    "lengths that are fractions": _record("page_lengths", [5.5, 6.5]),
    "lengths that are not the kept tokens": _record("page_lengths", [1, 1]),
    "lengths missing": lambda tensors, header: header["layers"][1].pop("page_lengths"),
    "more tokens seen": _record("num_seen", 301),
    "a negative number of tokens": _record("num_seen", -300),
    "segments that do not add up": _record("segments", [7]),
    "segments that are negative": _record("segments", [-5, 269]),
    "too many segments": _record("segments", [264, 10**9]),
    "no segments": _record("segments", None),
    "a record that is no record": lambda tensors, header: header["layers"].__setitem__(1, 5),
    "one layer less": lambda tensors, header: header["layers"].pop(),
    "layers that are no list": lambda tensors, header: header.update(layers=3),
    "a tensor missing": lambda tensors, header: tensors.pop("1.value_scales"),
    "codes of another width": _set("0.key_codes", lambda codes: codes[..., :-1].clone()),
    "codes of another page size": _set("0.key_codes", lambda codes: codes[:, :-1].clone()),
    "codes that are no bytes": _set("0.key_codes", lambda codes: codes.float()),
    "scales of fewer pages": _set("0.value_scales", lambda scales: scales[:-1].clone()),
    "kept bits of fewer tokens": _set("0.kept_bits.0", lambda bits: bits[:, :-1].clone()),
    "kept bits of other tokens": _set("0.kept_bits.0", lambda bits: bits | 255),
    "a window without values": _set("0.recent_values", lambda values: values[:, :0].clone()),
    "a window of another head_dim": _set("0.recent_keys", lambda keys: keys[..., :8].clone()),
    "a window of bytes": _set("0.recent_keys", lambda keys: keys.to(torch.uint8)),
    "a window of two dimensions": _set("0.recent_keys", lambda keys: keys[0].clone()),
    "sinks of fewer heads": _set("0.sink_keys", lambda keys: keys[:1].clone()),
    "values of too few widths": _record("value_widths", [2]),
    "values of no widths": _record("value_widths", []),
    "values of too many bits": _record("value_widths", [8, 8]),
    "keys of too many bits": _record("key_widths", [8, 0]),
    "a mean of another size": _set("0.key_mean", lambda mean: mean[..., :3].clone()),
    "no mean": lambda tensors, header: tensors.pop("0.key_mean"),
    "no model": lambda tensors, header: header.pop("model"),
    "no config": lambda tensors, header: header.pop("config"),
    "a config of text": lambda tensors, header: header.update(config="safe"),
    "a config with an unknown field": lambda tensors, header: header["config"].update(magic=1),
    "a config without quant": lambda tensors, header: header["config"].pop("quant"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_contradicts_itself_is_refused_and_leaves_the_cache_empty(model, saved, lie):
    rewrite(saved, LIES[lie])
    with pytest.raises(CacheStateError):
        load_cache(saved, model)
    cache = CompressedCache(model, EVICTING)
    with pytest.raises(CacheStateError):
        cache.restore(saved)
    assert cache.usage() == CompressedCache(model, EVICTING).usage()
