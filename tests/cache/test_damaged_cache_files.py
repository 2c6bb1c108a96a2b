from __future__ import annotations

import random

import pytest
import tiny_models
import torch
from driving import EVICTING
from rewriting import rewrite, with_text
from safetensors.torch import save_file

from nexusquant import CacheStateError, CompressedCache, load_cache

document = tiny_models.token_ids(300)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


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
    texts = ("no json", "[]", '"x"', "{}", "[" * 100_000, '{"format_version": 8}', "9" * 6000)
    for metadata in (None, *({"nexusquant": t} for t in (*texts, *map(with_text, texts)))):
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
    "a tensor more": lambda tensors, header: tensors.update({"0.more": torch.ones(2)}),
    "a layer's tensors in another's place": lambda tensors, header: tensors.update(
        {"0.key_codes": tensors["1.value_codes"][:, :, :3].clone()}
    ),
    "sinks that are not finite": _set("0.sink_keys", lambda keys: keys * torch.inf),
    "a window that is no number": _set("1.recent_values", lambda values: values * torch.nan),
    "a window of many heads": _set("0.recent_keys", lambda keys: keys.repeat(9, 1, 1)),
    "all exact vectors of many heads": lambda tensors, header: [
        tensors.update({f"0.{name}": tensors[f"0.{name}"].repeat(3, 1, 1)})
        for name in ("sink_keys", "sink_values", "recent_keys", "recent_values")
    ],
    "a window of doubles": _set("0.recent_keys", lambda keys: keys.double()),
    "a mean that is no number": _set("0.key_mean", lambda mean: mean * torch.nan),
    "gains that are not finite": _set("0.key_gains", lambda gains: gains / 0),
    "units that are not finite": _set("0.key_column_units", lambda units: units / 0),
    "angles that are no number": _set("rope.0", lambda angles: angles * torch.nan),
    "fewer angles": _set("rope.0", lambda angles: angles[:-1].clone()),
    "angles of whole numbers": _set("rope.0", lambda angles: angles.long()),
    "no angles": lambda tensors, header: header.update(rope_starts=[]),
    "angles that begin later": lambda tensors, header: header.update(rope_starts=[5]),
    "angles of a later text": lambda tensors, header: (
        header.update(rope_starts=[0, 10**9]),
        tensors.update({"rope.1": tensors["rope.0"].clone()}),
    ),
    "angles that go back": lambda tensors, header: (
        header.update(rope_starts=[0, 0]),
        tensors.update({"rope.1": tensors["rope.0"].clone()}),
    ),
    "layers that saw unlike many tokens": _record("num_seen", 0),
    "as many tokens as nobody has": lambda tensors, header: [
        record.update(num_seen=10**13, segments=[10**13 - 20]) for record in header["layers"]
    ],
    "a pairing that is none": _record("pairing", "thirds"),
    "widths that are no list": _record("key_widths", 5),
    "widths below nothing": _record("key_widths", [-2, 0]),
    "seeds that are none": lambda tensors, header: header["config"]["quant"].update(
        rotation_seed=None
    ),
    "seeds of text": lambda tensors, header: header["config"]["quant"].update(rotation_seed="x"),
    "seeds past all": lambda tensors, header: header["config"]["quant"].update(rotation_seed=2**70),
    "a seed with a fraction": lambda tensors, header: header["config"]["quant"].update(
        rotation_seed=0.5
    ),
    "an eviction of text": lambda tensors, header: header["config"].update(eviction="max"),
    "a span with a fraction": lambda tensors, header: header["config"]["eviction"].update(
        min_span=2.5
    ),
    "sinks of the config below nothing": lambda tensors, header: header["config"].update(
        num_sink_tokens=-1
    ),
    "sinks of the config with a fraction": lambda tensors, header: header["config"].update(
        num_sink_tokens=4.5
    ),
    "bits that are no number": lambda tensors, header: header["config"]["quant"].update(
        key_bits="2"
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_contradicts_itself_is_refused_and_leaves_the_cache_empty(model, saved, lie):
    rewrite(saved, "nexusquant", LIES[lie])
    with pytest.raises(CacheStateError):
        load_cache(saved, model)
    cache = CompressedCache(model, EVICTING)
    with pytest.raises(CacheStateError):
        cache.restore(saved)
    assert cache.usage() == CompressedCache(model, EVICTING).usage()


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("seed", range(20))
def test_a_single_flipped_bit_anywhere_is_noticed(model, saved, seed):
    content, chance = saved.read_bytes(), random.Random(seed)
    start = 8 + int.from_bytes(content[:8], "little")
    # a file is mostly tensors: half of the bits in what describes them
    places = [(0, 64), (64, 8 * start)] + [(8 * start, 8 * len(content))] * 3
    for first, last in places:
        saved.write_bytes(flipped(content, chance.randrange(first, last)))
        with pytest.raises(CacheStateError):
            load_cache(saved, model)


def test_a_file_that_something_follows_is_refused(model, saved):
    saved.write_bytes(saved.read_bytes() + b"more")
    with pytest.raises(CacheStateError):
        load_cache(saved, model)


def test_what_is_no_regular_file_is_refused(model, tmp_path):
    with pytest.raises(CacheStateError):
        load_cache(tmp_path, model)
    with pytest.raises(CacheStateError):
        load_cache("/dev/null", model)


def test_writing_over_a_file_does_not_change_what_was_read(model, saved):
    cache = load_cache(saved, model)
    before = cache.usage(), [layer.sinks[0].clone() for layer in cache.layers]
    with saved.open("r+b") as file:
        file.write(bytes(saved.stat().st_size))
        file.truncate(100)
    assert cache.usage() == before[0]
    assert all(
        torch.equal(layer.sinks[0], sinks)
        for layer, sinks in zip(cache.layers, before[1], strict=True)
    )


def test_a_folder_in_the_place_of_a_file_is_named_as_it_was_given(model, tmp_path):
    cache = CompressedCache(model, EVICTING)
    with pytest.raises(OSError, match="is a folder") as told:
        cache.save(tmp_path)
    assert ".partial" not in str(told.value)
    with pytest.raises(OSError, match="cannot be written") as told:
        cache.save(tmp_path / "there is none" / "a.nxq")
    assert ".partial" not in str(told.value)
