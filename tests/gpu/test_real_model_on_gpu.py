"""The real model on a real GPU: its vectors have outliers, and its layers bits of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nexusquant
from nexusquant.config import PRESETS
from nexusquant.engine import LoadedModel, load_model
from nexusquant.engine.default_model import default_model_dir
from nexusquant.engine.prefill import forward
from nexusquant.kernels import decode_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.model,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
NUM_READ, NUM_FED = 1500, 32


@pytest.fixture(scope="module")
def loaded(data_dir: Path) -> LoadedModel:
    return load_model(default_model_dir(data_dir), "cuda", "float32")


@pytest.fixture(scope="module")
def text_ids(loaded: LoadedModel) -> torch.Tensor:
    text = Path(nexusquant.__file__).with_name("config.py").read_text("utf-8")
    return loaded.tokenizer(text, return_tensors="pt")["input_ids"]


@pytest.fixture(scope="module")
def profile(loaded: LoadedModel) -> nexusquant.ModelProfile:
    return nexusquant.build_profile(loaded.model, loaded.tokenizer)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "off"])
def test_it_answers_through_the_kernel_as_through_the_reference(
    loaded: LoadedModel,
    profile: nexusquant.ModelProfile,
    text_ids: torch.Tensor,
    preset: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_kernel, calls = decode_attention._by_kernel, []
    monkeypatch.setattr(
        decode_attention, "_by_kernel", lambda *given: calls.append(given) or by_kernel(*given)
    )
    fed = text_ids[:, NUM_READ : NUM_READ + NUM_FED].to("cuda")
    found = []
    for has_kernel in (True, False):
        if not has_kernel:
            assert len(calls) >= NUM_FED * loaded.model.config.num_hidden_layers
            monkeypatch.setattr(decode_attention, "_has_kernel", lambda *_: False)
        cache = nexusquant.prefill(
            loaded.model, text_ids[:, :NUM_READ], PRESETS[preset], profile=profile
        )
        logits = [forward(loaded.model, fed[:, i : i + 1], cache) for i in range(NUM_FED)]
        found.append(torch.cat(logits).float().log_softmax(dim=-1))
    actual, expected = found
    divergence = (expected.exp() * (expected - actual)).sum(dim=-1)
    assert float(divergence.max()) < 1e-3
