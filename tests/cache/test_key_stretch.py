"""Keys that are coded larger than they are: nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import SAFE, decode

import nexusquant
from nexusquant import CompressedCache, QuantConfig, load_cache
from nexusquant.cache import ModelProfile
from nexusquant.errors import CacheStateError

STRETCH = 1.25
STRETCHED = replace(SAFE, quant=replace(SAFE.quant, key_stretch=STRETCH))
document = tiny_models.token_ids(300)
CODED = range(4, 260)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


@pytest.fixture(scope="module", params=["with a profile", "fitted to the text"])
def profile(model, request) -> ModelProfile | None:
    if request.param == "fitted to the text":
        return None
    return nexusquant.build_profile(model, token_ids=tiny_models.token_ids(256, seed=7))


def coded_keys(cache: CompressedCache, tokens: range) -> list[torch.Tensor]:
    """What every layer adds to the mean of its keys, rotated as they are."""
    found = []
    for layer in cache.layers:
        keys = layer.vectors(tokens)[0].float()
        found.append(keys - layer.codec.mean_at(keys, tokens.start))
    return found


def factor_between(one: torch.Tensor, other: torch.Tensor) -> float:
    """The factor that turns one best into the other."""
    return float((one * other).sum() / one.square().sum())


def test_coded_keys_are_larger_by_the_factor_and_values_and_bytes_are_the_same(
    model, profile
) -> None:
    plain, stretched = (
        nexusquant.prefill(model, document, config, profile=profile) for config in (SAFE, STRETCHED)
    )
    for one, other in zip(coded_keys(plain, CODED), coded_keys(stretched, CODED), strict=True):
        assert factor_between(one, other) == pytest.approx(STRETCH, rel=0.01)
    pools = (cache.layers[0].pages.values for cache in (plain, stretched))
    for one, other in zip(*pools, strict=True):
        assert torch.equal(one, other)
    assert stretched.usage().stored_bytes == plain.usage().stored_bytes


def test_exact_keys_stay_as_they_are(model, profile) -> None:
    plain, stretched = (
        nexusquant.prefill(model, document, config, profile=profile) for config in (SAFE, STRETCHED)
    )
    for one, other in zip(plain.layers, stretched.layers, strict=True):
        assert torch.equal(one.recent[0], other.recent[0])
        assert torch.equal(one.sinks[0], other.sinks[0])


def test_tokens_that_come_one_by_one_are_stretched_too(model, profile) -> None:
    caches = [
        nexusquant.prefill(model, document, config, profile=profile) for config in (SAFE, STRETCHED)
    ]
    for cache in caches:
        decode(model, cache, tiny_models.token_ids(100, seed=3))
    late = range(300, 330)
    # the first layer's keys depend on no attention
    one, other = (coded_keys(cache, late)[0] for cache in caches)
    assert factor_between(one, other) == pytest.approx(STRETCH, rel=0.02)


def test_a_saved_cache_goes_on_stretching(model, profile, tmp_path) -> None:
    cache = nexusquant.prefill(model, document, STRETCHED, profile=profile)
    cache.save(tmp_path / "a.nxq")
    loaded = load_cache(tmp_path / "a.nxq", model)
    assert loaded.config == STRETCHED
    more = tiny_models.token_ids(100, seed=3)
    assert torch.equal(decode(model, loaded, more), decode(model, cache, more))
    with pytest.raises(CacheStateError, match="other settings"):
        load_cache(tmp_path / "a.nxq", model, SAFE)


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="key_stretch"):
        QuantConfig(key_stretch=factor)
