from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import tiny_models
import torch

import nexusquant
from nexusquant.cache import CacheSteps
from nexusquant.config import EvictionConfig, QuantConfig, ScorerName
from nexusquant.engine.prefill import forward

CONFIG = nexusquant.CompressionConfig(quant=QuantConfig(), num_sink_tokens=4, recent_window=4)
EVICTING = replace(
    CONFIG, eviction=EvictionConfig(keep_ratio=0.4, scorer=ScorerName.SNAPKV, min_span=64)
)


# the interpreter takes logarithms of scales that mean nothing
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("config", [CONFIG, EVICTING], ids=["safe", "evicting"])
def test_steps_through_the_kernels_give_the_logits_of_plain_ones(config, monkeypatch):
    model, document = tiny_models.smollm_shaped(), tiny_models.token_ids(170)
    profile = nexusquant.build_profile(model, token_ids=tiny_models.token_ids(256, seed=5))
    answer = tiny_models.token_ids(70, seed=6)
    plain, stepped = (
        nexusquant.prefill(model, document, config, profile=profile) for _ in range(2)
    )
    for cache in (plain, stepped):
        for index in range(60):
            forward(model, answer[:, index : index + 1], cache)
    # the page's worth ends in between
    ids = [answer[:, index : index + 1] for index in range(60, 68)]
    expected = [forward(model, one, plain) for one in ids]
    for name in ("hold", "encode"):
        module = importlib.import_module(f"nexusquant.kernels.{name}")
        monkeypatch.setattr(module, "triton_problem", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    steps, actual = CacheSteps(stepped, len(ids)), []
    for one in ids:
        if steps.is_full:
            steps.turn_page()
        with torch.no_grad():
            output = model(one, position_ids=steps.position, past_key_values=stepped)
        actual.append(output.logits[:, -1])
        steps.tick()
        steps.count()
    steps.close()
    for here, there in zip(expected, actual, strict=True):
        assert float((here - there).norm() / here.norm()) < 0.01
    assert stepped.usage() == plain.usage()
