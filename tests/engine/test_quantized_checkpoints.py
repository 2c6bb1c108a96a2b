"""Checkpoints that others quantized: loaded where transformers can, else the lack is named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import tiny_models
import torch

from nexusquant.engine import load_model
from nexusquant.engine.model_loader import check_loadable
from nexusquant.engine.quantized_checkpoints import check_quantizer
from nexusquant.errors import UnsupportedModelError

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {},
    "ignore": ["lm_head"],
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def write_config(folder: Path, quantization: dict[str, object]) -> None:
    """A model's folder with nothing in it but a config."""
    tiny_models.llama().config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": quantization}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("quantization", "package", "named"),
    [
        (AWQ, "gptqmodel", "gptqmodel"),
        (GPTQ, "optimum", "optimum"),
        (COMPRESSED, "compressed_tensors", "compressed-tensors"),
    ],
    ids=["awq", "gptq", "compressed-tensors"],
)
def test_the_package_that_is_missing_is_named_before_weights_are_read(
    tmp_path: Path, quantization: dict[str, object], package: str, named: str
) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    write_config(tmp_path, quantization)
    method = str(quantization["quant_method"])
    with pytest.raises(UnsupportedModelError, match=rf"quantized by {method}.*{named}") as refusal:
        load_model(tmp_path, device="cpu")
    assert "pip install" in str(refusal.value)
    assert "--dtype nf4" in str(refusal.value)
    # nor are they fetched
    with pytest.raises(UnsupportedModelError, match=named):
        check_loadable(tmp_path, "cpu", "auto")


def test_a_method_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, {"quant_method": "abacus"})
    with pytest.raises(UnsupportedModelError, match="abacus, which transformers does not know"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("dtype", ["nf4", "int8"])
def test_weights_are_not_quantized_twice(tmp_path: Path, dtype: str) -> None:
    write_config(tmp_path, FP8)
    with pytest.raises(UnsupportedModelError, match=r"quantized already.*--dtype auto"):
        load_model(tmp_path, device="cpu", dtype=dtype)


def test_a_checkpoint_without_quantization_passes() -> None:
    check_quantizer("tiny", tiny_models.llama().config, "nf4")


class _Words:
    """A tokenizer's place, where no words are needed."""

    eos_token_id = None


class _NoTemplate:
    """A template's place, where nothing is said."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: _Words, name: str) -> None:
        pass


def test_fp8_weights_are_widened_where_the_device_cannot_compute_with_them_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("the GPU may compute with them")
    plain = tiny_models.llama(dtype=torch.bfloat16)
    write_fp8(plain, tmp_path)
    monkeypatch.setattr(
        "nexusquant.engine.model_loader.AutoTokenizer.from_pretrained", lambda *a, **k: _Words()
    )
    monkeypatch.setattr("nexusquant.engine.model_loader.ChatTemplate", _NoTemplate)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert any("widened to 16 bits" in note for note in loaded.notes)
    ids = tiny_models.token_ids(40)
    with torch.no_grad():
        expected, got = plain(ids).logits.float(), loaded.model(ids).logits.float()
    # three bits of mantissa
    assert float((expected - got).norm() / expected.norm()) < 0.2


def write_fp8(model: torch.nn.Module, folder: Path) -> None:
    """Save a model with its linear layers in FP8 blocks, as such checkpoints are."""
    model.save_pretrained(folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        blocks = tensors[name].float().unflatten(0, (-1, 16)).unflatten(2, (-1, 16))
        scales = blocks.abs().amax(dim=(1, 3), keepdim=True) / 448
        codes = (blocks / scales).flatten(2).flatten(0, 1).to(torch.float8_e4m3fn)
        tensors[name] = codes.contiguous()
        tensors[f"{name}_scale_inv"] = scales[:, 0, :, 0].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": FP8}))
