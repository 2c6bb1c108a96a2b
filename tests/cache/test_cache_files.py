from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, OFF, SAFE, TWO_BIT, decode, read
from safetensors.torch import load_file

import nexusquant
from nexusquant import CacheStateError, CompressedCache, load_cache
from nexusquant.cache import storage
from nexusquant.cache.file import checked

CONFIGS = {"off": OFF, "safe": SAFE, "evicting": EVICTING}

document = tiny_models.token_ids(300)
question = tiny_models.token_ids(120, seed=2)
answer = tiny_models.token_ids(110, seed=3)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def turn(model, cache, num_new=3):
    return torch.cat([read(model, cache, question), decode(model, cache, answer[:, :num_new])])


@pytest.mark.parametrize("config", CONFIGS)
def test_a_loaded_cache_continues_bit_for_bit(model, tmp_path, config):
    cache = nexusquant.prefill(model, document, CONFIGS[config])
    decode(model, cache, tiny_models.token_ids(20, seed=8))
    cache.save(tmp_path / "a.nxq")
    loaded = load_cache(tmp_path / "a.nxq", model)
    assert loaded.config == CONFIGS[config]
    assert loaded.num_seen_tokens == 320
    assert loaded.usage() == cache.usage()
    assert loaded.kept_shares([(0, 100), (50, 51)]) == cache.kept_shares([(0, 100), (50, 51)])
    # past two flushes of the recent window
    assert torch.equal(turn(model, loaded, 110), turn(model, cache, 110))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_caches_come_back(tmp_path, dtype):
    model = tiny_models.llama(dtype=dtype)
    cache = nexusquant.prefill(model, document, EVICTING)
    cache.save(tmp_path / "a.nxq")
    assert torch.equal(turn(model, load_cache(tmp_path / "a.nxq", model)), turn(model, cache))


def test_generate_continues_a_loaded_cache_with_the_same_text(model, saved):
    whole = torch.cat([document, question[:, :7]], dim=1)
    options = {"max_new_tokens": 30, "do_sample": False}
    fresh = nexusquant.prefill(model, document, EVICTING)
    expected = model.generate(whole, past_key_values=fresh, **options)
    loaded = load_cache(saved, model, EVICTING)
    assert torch.equal(model.generate(whole, past_key_values=loaded, **options), expected)


def test_a_loaded_cache_can_be_marked_rewound_and_saved_again(model, saved, tmp_path):
    cache = load_cache(saved, model)
    mark = cache.mark()
    first = turn(model, cache)
    cache.rewind(mark)
    cache.save(tmp_path / "again.nxq")
    # the header lists tensors in an order of its own
    assert load_file(tmp_path / "again.nxq").keys() == load_file(saved).keys()
    for name, tensor in load_file(saved).items():
        assert torch.equal(load_file(tmp_path / "again.nxq")[name], tensor)
    assert torch.equal(turn(model, load_cache(tmp_path / "again.nxq", model)), first)


@pytest.mark.parametrize("config", [SAFE, EVICTING], ids=["safe", "evicting"])
def test_nothing_that_was_rewound_is_in_the_file(model, tmp_path, config):
    cache = nexusquant.prefill(model, document, config)
    cache.save(tmp_path / "before.nxq")
    mark = cache.mark()
    read(model, cache, question)
    decode(model, cache, answer)
    cache.rewind(mark)
    cache.save(tmp_path / "after.nxq")
    assert (tmp_path / "after.nxq").read_bytes() == (tmp_path / "before.nxq").read_bytes()
    # and saving moved no page from under the mark
    fresh = nexusquant.prefill(model, document, config)
    cache.rewind(mark)
    assert torch.equal(turn(model, cache), turn(model, fresh))


@pytest.mark.parametrize("num_tokens", [0, 3, 36, 40])
@pytest.mark.parametrize("config", CONFIGS)
def test_short_and_empty_caches_come_back(model, tmp_path, num_tokens, config):
    cache = CompressedCache(model, CONFIGS[config])
    if num_tokens:
        read(model, cache, document[:, :num_tokens])
    cache.save(tmp_path / "a.nxq")
    loaded = load_cache(tmp_path / "a.nxq", model)
    assert loaded.num_seen_tokens == num_tokens
    assert torch.equal(turn(model, loaded), turn(model, cache))


def test_a_loaded_cache_does_not_depend_on_its_file(model, saved):
    expected = turn(model, load_cache(saved, model))
    cache = load_cache(saved, model)
    size = saved.stat().st_size
    # in place, so that a mapping of the file would show it
    with saved.open("r+b") as file:
        file.write(b"\xff" * size)
    assert torch.equal(turn(model, cache), expected)


def test_the_file_is_about_as_large_as_the_cache(model, saved):
    cache = nexusquant.prefill(model, document, EVICTING)
    assert saved.stat().st_size < reachable_bytes(cache) + 6000


def test_bytes_of_a_loaded_cache_are_those_that_are_reachable(model, saved):
    cache = load_cache(saved, model)
    assert cache.usage().stored_bytes == reachable_bytes(cache)


def test_another_model_is_refused(saved):
    for other in (tiny_models.llama(seed=1), tiny_models.llama(dtype=torch.bfloat16)):
        with pytest.raises(CacheStateError, match="made with another model"):
            load_cache(saved, other)


def test_the_same_weights_with_another_rope_are_refused(saved):
    other = tiny_models.llama()
    load_cache(saved, other)
    other.config.rope_parameters = other.config.rope_parameters | {"rope_theta": 500_000.0}
    with pytest.raises(CacheStateError, match="made with another model"):
        load_cache(saved, other)


def test_how_a_text_was_read_is_no_part_of_what_is_stored(model, saved):
    config = replace(storage.read_config(saved), exact_prefill_tokens=123)
    cache = CompressedCache(model, config)
    cache.restore(saved)
    assert cache.usage().stored_bytes == load_cache(saved, model).usage().stored_bytes
    assert cache.config == config


def test_another_config_is_refused(model, saved):
    for other in (TWO_BIT, replace(EVICTING, recent_window=16), OFF):
        with pytest.raises(CacheStateError, match="other settings"):
            load_cache(saved, model, other)


def test_another_format_version_is_refused(model, saved, monkeypatch):
    written = storage.FORMAT_VERSION
    monkeypatch.setattr(storage, "FORMAT_VERSION", written + 1)
    told = f"format version {written}, this program reads version {written + 1}"
    with pytest.raises(CacheStateError, match=told):
        load_cache(saved, model)


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(CacheStateError, match=r"no saved cache at .*nothing\.nxq"):
        load_cache(tmp_path / "nothing.nxq", model)


def test_restoring_replaces_what_a_cache_holds(model, saved):
    cache = nexusquant.prefill(model, question, EVICTING)
    cache.restore(saved)
    assert torch.equal(turn(model, cache), turn(model, load_cache(saved, model)))
    saved.write_bytes(b"")
    with pytest.raises(CacheStateError):
        cache.restore(saved)
    assert cache.num_seen_tokens == 0
    assert torch.equal(turn(model, cache), turn(model, CompressedCache(model, EVICTING)))


def test_a_failed_save_leaves_no_file_and_keeps_the_old_one(model, saved, monkeypatch, tmp_path):
    old = saved.read_bytes()

    def fail(_tensors, partial, **_options):
        Path(partial).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checked, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        nexusquant.prefill(model, question, SAFE).save(saved)
    assert saved.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["document.nxq"]


def test_a_folder_that_does_not_exist_is_an_os_error(model, tmp_path):
    with pytest.raises(OSError):
        nexusquant.prefill(model, question, SAFE).save(tmp_path / "nowhere" / "a.nxq")


def test_caches_with_sliding_layers_say_that_they_cannot_be_saved(tmp_path):
    cache = nexusquant.prefill(tiny_models.gemma3(), document, SAFE)
    with pytest.raises(CacheStateError, match="cannot be saved yet"):
        cache.save(tmp_path / "a.nxq")
    assert not list(tmp_path.iterdir())
