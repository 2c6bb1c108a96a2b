"""Layers on two devices give the text of one: a CPU beside the GPU stands in for a second GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from tiny_models import of_family, token_ids
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import nexusquant
from nexusquant.cache import fingerprint, layer_devices
from nexusquant.config import PRESETS, RopeScaling
from nexusquant.engine import JobState, TextDelta, Worker, model_loader, placement
from nexusquant.engine.devices import cap_gpu_memory
from nexusquant.engine.events import Event
from nexusquant.engine.memory import MemoryReading, read_memory
from nexusquant.engine.prefill import forward
from nexusquant.engine.split_plan import SplitPlan
from nexusquant.engine.weights import Precision, weight_parts
from nexusquant.errors import OutOfMemoryError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NUM_LAYERS, NUM_NEW = 4, 24
IDS = token_ids(1500)


def one_device(device: torch.device) -> PreTrainedModel:
    return of_family(LlamaForCausalLM, LlamaConfig, num_hidden_layers=NUM_LAYERS).to(device)


def two_devices(first: torch.device, second: torch.device) -> PreTrainedModel:
    """Layers 0 and 1 compute on the one, 2 and 3 on the other."""
    one, other = ("cpu" if device == CPU else device.index for device in (first, second))
    places = {"model.embed_tokens": one, "model.rotary_emb": one}
    places |= {f"model.layers.{i}": one if i < 2 else other for i in range(NUM_LAYERS)}
    places |= {"model.norm": other, "lm_head": other}
    # with the CPU as main device, modules on it are computed there
    main = "cpu" if CPU in (first, second) else None
    model = one_device(CPU)
    # as transformers calls it
    options = {"skip_keys": "past_key_values", "force_hooks": True}
    return dispatch_model(model, places, main_device=main, **options)


@pytest.fixture(params=["cpu first", "gpu first"])
def split(request: pytest.FixtureRequest) -> PreTrainedModel:
    devices = (CPU, GPU) if request.param == "cpu first" else (GPU, CPU)
    return two_devices(*devices)


@pytest.fixture(scope="module")
def profile() -> nexusquant.ModelProfile:
    return nexusquant.build_profile(one_device(CPU), token_ids=IDS)


def greedy(model: PreTrainedModel, cache: nexusquant.CompressedCache) -> list[int]:
    """The likeliest tokens, one after another, after one question."""
    logits = forward(model, IDS[:, :7].to(model.device), cache)
    tokens = []
    for _ in range(NUM_NEW):
        tokens.append(int(logits.argmax()))
        logits = forward(model, torch.tensor([tokens[-1:]], device=model.device), cache)
    return tokens


def test_the_text_is_that_of_one_device(split: PreTrainedModel) -> None:
    assert set(layer_devices(split)) == {CPU, GPU}
    texts = [
        greedy(model, nexusquant.prefill(model, IDS, PRESETS["off"]))
        for model in (one_device(GPU), split)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("preset", ["safe", "high"])
def test_coded_text_is_read_as_on_one_device(
    split: PreTrainedModel, profile: nexusquant.ModelProfile, preset: str
) -> None:
    logits = []
    for model in (one_device(GPU), split):
        cache = nexusquant.prefill(model, IDS, PRESETS[preset], profile=profile)
        logits.append(forward(model, IDS[:, :7].to(model.device), cache).cpu())
    # a tie that falls the other way on a CPU changes single codes
    torch.testing.assert_close(logits[0], logits[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("preset", ["safe", "high"])
def test_every_layers_pages_are_where_its_layer_is(
    split: PreTrainedModel, profile: nexusquant.ModelProfile, preset: str, tmp_path: Path
) -> None:
    cache = nexusquant.prefill(split, IDS, PRESETS[preset], profile=profile)
    cache.save(tmp_path / "text.nxq")
    opened = nexusquant.CompressedCache(split, PRESETS[preset], profile)
    opened.restore(tmp_path / "text.nxq")
    for held in (cache, opened):
        for layer, device in zip(held.layers, layer_devices(split), strict=True):
            tensors = [*layer.sinks, *layer.recent, *layer.pages.keys, *layer.pages.values]
            tensors += [layer.pages.page_table, layer.codec.keys.basis, layer.codec.values.basis]
            assert {tensor.device for tensor in tensors} == {device}
    mark = cache.mark()
    first = greedy(split, cache)
    cache.rewind(mark)
    assert greedy(split, cache) == first == greedy(split, opened)


def test_it_is_measured_and_named_like_on_one_device(
    split: PreTrainedModel, profile: nexusquant.ModelProfile
) -> None:
    assert fingerprint(split) == fingerprint(one_device(CPU))
    found = nexusquant.build_profile(split, token_ids=IDS)
    assert found.pairings == profile.pairings
    for one, other in zip(profile.bases, found.bases, strict=True):
        torch.testing.assert_close(other.mean.cpu(), one.mean, atol=0.05, rtol=0.05)
    cache = nexusquant.prefill(split, IDS, PRESETS["high"], profile=found)
    assert len(greedy(split, cache)) == NUM_NEW
    # without a profile every layer fits its own keys, on its own device
    assert len(greedy(split, nexusquant.prefill(split, IDS, PRESETS["safe"]))) == NUM_NEW


def test_scaled_positions_reach_both_devices(split: PreTrainedModel) -> None:
    scaling = RopeScaling(factor=2.0)
    logits = []
    for model in (one_device(GPU), split):
        cache = nexusquant.prefill(model, IDS, PRESETS["off"], scaling=scaling)
        logits.append(forward(model, IDS[:, :7].to(model.device), cache).cpu())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)


class _Words:
    """A tokenizer's place, where no words are needed."""

    eos_token_id = None


class _NoTemplate:
    """A template's place, where nothing is said."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: _Words, name: str) -> None:
        pass


def load_with(
    free_bytes: int, folder: Path, patch: pytest.MonkeyPatch, *, offload: bool
) -> model_loader.LoadedModel:
    """Load onto one GPU that has so much free."""

    def pretend(device: torch.device) -> MemoryReading:
        reading = read_memory(device)
        return reading if device.type == "cpu" else replace(reading, device_free_bytes=free_bytes)

    patch.setattr(model_loader, "read_memory", pretend)
    patch.setattr(model_loader, "devices_of", lambda target: (GPU,))
    patch.setattr(model_loader.AutoTokenizer, "from_pretrained", lambda *a, **k: _Words())
    patch.setattr(model_loader, "ChatTemplate", _NoTemplate)
    return model_loader.load_model(folder, "cuda", "float32", offload=offload)


def test_layers_that_wait_in_the_computers_memory_give_the_same_text(
    profile: nexusquant.ModelProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_device(CPU).save_pretrained(tmp_path)
    with pytest.raises(OutOfMemoryError, match="--offload"):
        load_with(1000, tmp_path, monkeypatch, offload=False)
    config = one_device(CPU).config
    plan = SplitPlan(config, PRESETS["safe"], Precision.FLOAT32, weight_parts(config), (0,))
    # room for all but the last two layers, beside the text that has to fit
    enough = plan.needed_bytes(0, range(2), 8192, range(2, NUM_LAYERS))
    # the weights are so small that they would fit in place of that text
    monkeypatch.setattr(placement, "_on_cards", lambda task: None)
    loaded = load_with(enough, tmp_path, monkeypatch, offload=True)
    assert "2 of 4 layers do not fit the GPU" in loaded.notes[0]
    assert any(weight.is_meta for weight in loaded.model.parameters())
    # what waits is computed on the GPU, and its pages are there
    assert set(layer_devices(loaded.model)) == {GPU}
    texts = [
        greedy(model, nexusquant.prefill(model, IDS, PRESETS["high"], profile=profile))
        for model in (one_device(GPU), loaded.model)
    ]
    assert texts[0] == texts[1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_text_of_one(profile: nexusquant.ModelProfile) -> None:
    split = two_devices(GPU, torch.device("cuda", 1))
    texts = [
        greedy(model, nexusquant.prefill(model, IDS, PRESETS["high"], profile=profile))
        for model in (one_device(GPU), split)
    ]
    assert texts[0] == texts[1]


@pytest.fixture
def capped() -> Iterator[None]:
    torch.cuda.empty_cache()
    cap_gpu_memory(0.1)
    yield
    cap_gpu_memory(1.0)


def test_beyond_the_cap_memory_is_refused_in_a_way_that_can_be_caught(capped: None) -> None:
    reading = read_memory(GPU)
    total = reading.device_total_bytes
    assert reading.allowed_bytes == pytest.approx(0.1 * total, rel=0.01)
    assert reading.usable_bytes <= reading.allowed_bytes
    worker = Worker()

    def too_much() -> Iterator[Event]:
        held = torch.empty(int(0.11 * total), dtype=torch.uint8, device=GPU)
        yield TextDelta(str(held.device))

    job = worker.submit(too_much)
    assert job.wait(60)
    worker.close()
    assert job.state is JobState.FAILED
    assert isinstance(job.error, OutOfMemoryError)
    assert "--gpu-share" in str(job.error)
    # most of what is allowed can be had
    assert torch.empty(int(0.09 * total), dtype=torch.uint8, device=GPU).is_cuda


def test_weights_go_to_the_gpu_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    model = of_family(LlamaForCausalLM, LlamaConfig, **sizes)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    num_bytes = sum(weight.nbytes for weight in model.parameters())
    del model
    monkeypatch.setattr(model_loader.AutoTokenizer, "from_pretrained", lambda *a, **k: _Words())
    monkeypatch.setattr(model_loader, "ChatTemplate", _NoTemplate)
    # of several GPUs, the one with the most room is taken
    gpus = range(torch.cuda.device_count())
    torch.cuda.empty_cache()
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    before = sum(map(torch.cuda.memory_allocated, gpus))
    loaded = model_loader.load_model(tmp_path, "cuda")
    assert loaded.model.dtype == torch.bfloat16
    peak = sum(map(torch.cuda.max_memory_allocated, gpus)) - before
    # no copy of the whole beside it: one tensor at most
    assert num_bytes <= peak < 1.2 * num_bytes
