"""Weights that wait outside of the model until they are computed with change nothing but time."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import nexusquant
from nexusquant.cache import fingerprint, layer_devices, named_weights
from nexusquant.config import PRESETS
from nexusquant.engine.prefill import forward

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    """The tiny model, its second layer on the disk."""
    folder = tmp_path_factory.mktemp("model")
    tiny_models.llama().save_pretrained(folder)
    places = {name: "cpu" for name in ("model.embed_tokens", "model.rotary_emb", "model.layers.0")}
    places |= {"model.layers.1": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        device_map=places,
        offload_folder=tmp_path_factory.mktemp("waiting"),
        dtype=torch.float32,
    )
    return model.eval()


def test_some_weights_are_not_there(waiting: PreTrainedModel) -> None:
    missing = [name for name, weight in waiting.named_parameters() if weight.is_meta]
    assert missing
    assert all(name.startswith("model.layers.1.") for name in missing)


def test_weights_and_devices_are_found_all_the_same(waiting: PreTrainedModel) -> None:
    assert layer_devices(waiting) == layer_devices(tiny_models.llama()) == [CPU, CPU]
    weights = dict(named_weights(waiting))
    for name, weight in tiny_models.llama().named_parameters():
        assert torch.equal(weights[name], weight), name
    assert fingerprint(waiting) == fingerprint(tiny_models.llama())


@pytest.mark.parametrize("preset", ["off", "safe", "balanced"])
def test_it_is_measured_and_reads_as_if_all_were_there(
    waiting: PreTrainedModel, preset: str, tmp_path: Path
) -> None:
    ids = tiny_models.token_ids(700)
    logits = []
    for model in (tiny_models.llama(), waiting):
        profile = nexusquant.build_profile(model, token_ids=ids)
        cache = nexusquant.prefill(model, ids, PRESETS[preset], profile=profile)
        cache.save(tmp_path / "text.nxq")
        opened = nexusquant.CompressedCache(model, PRESETS[preset], profile)
        opened.restore(tmp_path / "text.nxq")
        logits.append(forward(model, ids[:, :9], opened))
    assert torch.equal(*logits)
