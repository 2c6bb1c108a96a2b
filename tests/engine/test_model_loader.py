"""Choosing a device and loading a model, with sentences for what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch

from nexusquant.engine import (
    LoadedModel,
    Precision,
    count_weights,
    devices,
    load_model,
)
from nexusquant.engine.default_model import default_model_dir
from nexusquant.engine.devices import choose_device, kernel_notes
from nexusquant.errors import UnsupportedModelError


def pretend_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], archs: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)


@pytest.mark.parametrize(
    ("capability", "archs", "device"),
    [
        ((8, 6), ["sm_75", "sm_80", "sm_90"], "cuda"),
        ((7, 5), ["sm_75", "sm_80"], "cuda"),
        ((12, 0), ["sm_80", "compute_90"], "cuda"),
        ((12, 0), ["sm_80", "sm_90"], "cpu"),
        ((6, 1), ["sm_75", "sm_80", "compute_90"], "cpu"),
    ],
)
def test_auto_takes_a_gpu_only_if_this_torch_has_code_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], archs: list[str], device: str
) -> None:
    pretend_gpu(monkeypatch, capability, archs)
    chosen, notes = choose_device("auto")
    assert chosen.type == device
    assert bool(notes) == (device == "cpu")


def test_falling_back_to_the_cpu_is_said_and_asking_for_cuda_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no NVIDIA GPU" in choose_device("auto")[1][0]
    assert choose_device("cpu") == (torch.device("cpu"), ())
    with pytest.raises(ValueError, match="--device cpu"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="choose one of auto, cpu, cuda"):
        choose_device("tpu")


def test_a_gpu_without_kernels_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "triton_problem", lambda device: "triton is missing")
    (note,) = kernel_notes(torch.device("cuda"), 64)
    assert note.endswith("no GPU kernels, triton is missing.")
    assert kernel_notes(torch.device("cpu"), 64) == ()
    monkeypatch.setattr(devices, "triton_problem", lambda device: None)
    monkeypatch.setattr(devices, "decode_problem", lambda device, dim: "it is too old")
    (note,) = kernel_notes(torch.device("cuda"), 64)
    assert note.endswith("no kernel reads the cache, it is too old.")
    monkeypatch.setattr(devices, "decode_problem", lambda device, dim: None)
    assert kernel_notes(torch.device("cuda"), 64) == ()


def test_a_folder_without_a_model_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Hugging Face id or a local folder"):
        load_model(tmp_path, device="cpu")


def test_pickled_weights_are_not_opened(tiny: LoadedModel, tmp_path: Path) -> None:
    tiny.model.config.save_pretrained(tmp_path)
    torch.save(tiny.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="safetensors"):
        load_model(tmp_path, device="cpu")


def test_an_unknown_dtype_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32, bfloat16, float16, int8, nf4"):
        load_model(tmp_path, device="cpu", dtype="int5")


@pytest.mark.parametrize("family", ["latent_attention", "linear_attention", "no_attention"])
def test_a_model_that_cannot_be_compressed_is_refused_by_its_config(
    family: str, tmp_path: Path
) -> None:
    make, reason = tiny_models.UNSUPPORTED[family]
    # no weights and no tokenizer are there
    make().config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=reason):
        load_model(tmp_path, device="cpu")


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_narrow_weights_take_the_bytes_that_were_counted(data_dir: Path, dtype: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    loaded = load_model(default_model_dir(data_dir), device="cpu", dtype=dtype)
    held = sum(parameter.nbytes for parameter in loaded.model.parameters())
    counted = count_weights(loaded.model.config)
    # scales are not parameters
    assert held == pytest.approx(counted.num_bytes(Precision(dtype)), rel=0.03)
    ids = torch.tensor([loaded.tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        likeliest = loaded.model(ids).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(likeliest) == " Paris"


@pytest.mark.model
def test_the_embedded_model_knows_its_context_and_its_end(smollm: LoadedModel) -> None:
    assert smollm.context_length == 8192
    assert smollm.end_ids == {smollm.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert smollm.model.dtype == torch.float32
    assert not smollm.model.training
