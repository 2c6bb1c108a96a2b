"""Where weights go: one card, several, or partly the computer's memory; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch

from nexusquant.config import PRESETS
from nexusquant.engine import MemoryReading, Precision, count_weights, fit_of, listed_models
from nexusquant.engine.memory_plan import plan_memory
from nexusquant.engine.placement import Card, place_weights
from nexusquant.engine.split_plan import SplitPlan
from nexusquant.engine.weights import weight_parts
from nexusquant.errors import OutOfMemoryError

GIB = 2**30
MODELS = {model.id: model for model in listed_models()}
LLAMA_8B = MODELS["meta-llama/Llama-3.1-8B-Instruct"]
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


def card(number: int, free_bytes: int, allowed_bytes: int | None = None) -> Card:
    memory = MemoryReading(f"Card {number}", 80 * GIB, free_bytes, 0, allowed_bytes)
    return Card(torch.device("cuda", number), memory)


def place(model, *free_bytes: int, dtype: str = "bfloat16", **options):
    cards = [card(number, free) for number, free in enumerate(free_bytes)]
    return place_weights(model.id, model.config(), dtype, cards, **options)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "int8", "nf4"])
def test_weights_that_do_not_fit_are_refused_with_the_numbers(dtype: str) -> None:
    config = tiny_models.llama(dtype=torch.bfloat16).config
    config.dtype = torch.bfloat16
    precision = Precision("bfloat16" if dtype == "auto" else dtype)
    needed = count_weights(config).num_bytes(precision)
    place_weights("tiny", config, dtype, [card(0, needed)])
    with pytest.raises(OutOfMemoryError, match=rf"tiny takes 0\.0 GB in {precision}.*are free"):
        place_weights("tiny", config, dtype, [card(0, needed - 1)])


def test_what_would_help_is_said() -> None:
    with pytest.raises(OutOfMemoryError, match=r"--dtype nf4.*--offload") as refusal:
        place(LLAMA_8B, 8 * GIB)
    assert "--gpu-share" not in str(refusal.value)
    with pytest.raises(OutOfMemoryError, match=r"4\.0 GB of Card 0.*--gpu-share"):
        cards = [card(0, 8 * GIB, allowed_bytes=4 * 10**9)]
        place_weights(LLAMA_8B.id, LLAMA_8B.config(), "bfloat16", cards)
    # 4-bit weights cannot wait elsewhere, and nothing is narrower
    with pytest.raises(OutOfMemoryError) as refusal:
        place(LLAMA_8B, 4 * GIB, dtype="nf4", offload=True)
    assert "--" not in str(refusal.value)


def test_a_checkpoint_that_is_quantized_already_is_left_to_try() -> None:
    config = tiny_models.llama().config
    config.quantization_config = {"quant_method": "awq"}
    assert place_weights("tiny", config, "auto", [card(0, 0)]).device_map == {"": FIRST}


def test_one_card_is_taken_where_the_model_and_its_whole_context_fit() -> None:
    placed = place(LLAMA_8B, 8 * GIB, 40 * GIB)
    assert (placed.device_map, placed.notes) == ({"": SECOND}, ())


def test_layers_are_spread_where_that_holds_more_and_it_is_said() -> None:
    placed = place(LLAMA_8B, 12 * GIB, 12 * GIB)
    layers = [placed.device_map[f"model.layers.{i}"] for i in range(32)]
    assert layers == sorted(layers)
    assert 8 < layers.count(0) < 24
    assert placed.device_map["model.embed_tokens"] == 0
    # what makes the logits is where the last layer is
    assert placed.device_map["lm_head"] == placed.device_map["model.norm"] == 1
    assert "Card 0 (cuda:0)" in placed.notes[0]
    assert "Card 1 (cuda:1)" in placed.notes[0]


def test_weights_that_are_shared_stay_on_one_card() -> None:
    tied = MODELS["meta-llama/Llama-3.2-3B-Instruct"]
    placed = place(tied, 5 * GIB, 5 * GIB)
    assert placed.device_map["lm_head"] == placed.device_map["model.embed_tokens"] == 0
    assert placed.device_map["model.layers.27"] == 1


@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma2", "gemma3"])
def test_every_module_of_a_family_has_a_place(family: str) -> None:
    model = (tiny_models.FULL_ATTENTION | tiny_models.HYBRID)[family]()
    parts = weight_parts(model.config)
    named = {*parts.before, *parts.layers, *parts.after}
    for name, _ in model.named_parameters():
        assert any(name.startswith(f"{unit}.") for unit in named), name
    assert parts.total == count_weights(model.config)


@pytest.mark.parametrize("preset", ["safe", "balanced"])
def test_each_card_holds_its_share_and_one_page_more_does_not_fit(preset: str) -> None:
    free = (10 * GIB, 14 * GIB)
    config = LLAMA_8B.config()
    parts = weight_parts(config)
    plan = SplitPlan(config, PRESETS[preset], Precision.BFLOAT16, parts, free)
    split = plan.best()
    assert [i for layers in split.layers for i in layers] == list(range(32))
    for number, layers in enumerate(split.layers):
        assert plan.needed_bytes(number, layers, split.num_tokens) <= free[number]
    larger = replace(plan, free_bytes=tuple(n + GIB for n in free)).best()
    assert larger.num_tokens > split.num_tokens
    # two cards hold no more than one card of the size of both
    whole = plan_memory(config, PRESETS[preset], Precision.BFLOAT16, weights=parts.total)
    assert split.num_tokens < whole.tokens_that_fit(sum(free))


def test_the_weights_of_all_cards_are_those_of_the_model() -> None:
    config, parts = LLAMA_8B.config(), weight_parts(LLAMA_8B.config())
    plan = SplitPlan(config, PRESETS["safe"], Precision.BFLOAT16, parts, (12 * GIB, 12 * GIB))
    split = plan.best()
    held = [plan.plan_of(n, layers).weight_bytes for n, layers in enumerate(split.layers)]
    assert sum(held) == parts.total.num_bytes(Precision.BFLOAT16)


def test_two_cards_hold_what_neither_does() -> None:
    assert str(fit_of(LLAMA_8B, 12 * GIB).label) == "fits with 4-bit weights"
    both = fit_of(LLAMA_8B, 12 * GIB, 12 * GIB)
    assert str(both.label) == "fits"
    # a second card with no room changes nothing
    assert fit_of(LLAMA_8B, 24 * GIB, 0) == fit_of(LLAMA_8B, 24 * GIB)


def test_layers_wait_in_the_computers_memory_only_if_asked_to_and_the_cost_is_said() -> None:
    placed = place(LLAMA_8B, 8 * GIB, offload=True, free_ram_bytes=32 * GIB)
    waiting = [name for name, device in placed.device_map.items() if device == "cpu"]
    assert waiting == [f"model.layers.{i}" for i in range(32 - len(waiting), 32)]
    (note,) = placed.notes
    assert note.startswith(f"{len(waiting)} of 32 layers do not fit the GPU")
    assert "for every word of an answer" in note
    with pytest.raises(OutOfMemoryError, match="wait in the computer's memory"):
        place(LLAMA_8B, 8 * GIB, offload=True, free_ram_bytes=GIB)
    # nothing waits that has room
    roomy = place(LLAMA_8B, 40 * GIB, offload=True, free_ram_bytes=32 * GIB)
    assert roomy.device_map == {"": FIRST}
