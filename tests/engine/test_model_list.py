"""The list of models: its facts agree with each other, and its labels with the memory plan."""

from __future__ import annotations

import pytest

from nexusquant.cache import layer_shapes
from nexusquant.config import PRESETS
from nexusquant.engine import Precision, count_weights, plan_memory
from nexusquant.engine.model_list import FitLabel, fit_of, listed_models

GIB = 2**30
MODELS = {model.id: model for model in listed_models()}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@each_model
def test_its_sizes_make_the_parameters_and_the_download_that_it_is_said_to_have(model):
    counted = count_weights(model.config()).num_parameters
    assert counted / 1e9 == pytest.approx(model.billion_parameters, rel=0.01)
    # some files hold the embeddings again as the weights of the logits
    embeddings = model.sizes["vocab_size"] * model.sizes["hidden_size"]
    again = embeddings * model.sizes["tie_word_embeddings"]
    assert 2 * counted * 0.99 < model.download_gb * 1e9 < 2 * (counted + again) * 1.01


@each_model
def test_it_can_be_compressed(model):
    shapes = layer_shapes(model.config())
    assert any(shape.can_be_coded for shape in shapes)
    assert {shape.num_kv_heads for shape in shapes} == {model.num_kv_heads}


def test_there_is_one_of_every_family_and_size():
    assert {model.family for model in MODELS.values()} == {
        *("Gemma", "Llama", "Mistral", "Phi", "Qwen", "SmolLM")
    }
    sizes = [model.billion_parameters for model in MODELS.values()]
    for least, most in ((0.3, 1), (1, 2), (2.5, 4.5), (7, 9.5), (12, 15)):
        assert sum(least <= size <= most for size in sizes) >= 2
    assert len(MODELS) == len(listed_models())


@pytest.mark.parametrize(
    ("name", "gigabytes", "label"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 8, FitLabel.FITS),
        ("meta-llama/Llama-3.2-3B-Instruct", 12, FitLabel.FITS),
        ("meta-llama/Llama-3.1-8B-Instruct", 8, FitLabel.FITS_IN_4_BITS),
        ("meta-llama/Llama-3.1-8B-Instruct", 24, FitLabel.FITS),
        ("Qwen/Qwen2.5-14B-Instruct", 8, FitLabel.DOES_NOT_FIT),
        ("Qwen/Qwen2.5-14B-Instruct", 16, FitLabel.FITS_IN_4_BITS),
    ],
)
def test_labels_are_those_of_cards_that_people_have(name, gigabytes, label):
    assert fit_of(MODELS[name], gigabytes * GIB).label is label


def test_what_fits_is_what_the_plan_says():
    model = MODELS["Qwen/Qwen2.5-7B-Instruct"]
    fit = fit_of(model, 8 * GIB)
    assert fit.precision is Precision.NF4
    assert fit.tokens.keys() == PRESETS.keys()
    plan = plan_memory(model.config(), PRESETS["off"], Precision.NF4)
    planned = plan.tokens_that_fit(8 * GIB)
    assert fit.tokens["off"] == min(planned, model.context_length)
    assert fit.pages["safe"] == fit.tokens["safe"] // 500


def test_more_memory_never_fits_less():
    order = [FitLabel.DOES_NOT_FIT, FitLabel.FITS_IN_4_BITS, FitLabel.FITS]
    for model in MODELS.values():
        fits = [fit_of(model, gigabytes * GIB) for gigabytes in (2, 8, 16, 48)]
        ranks = [order.index(fit.label) for fit in fits]
        assert ranks == sorted(ranks)
        assert ranks[-1] == 2


def test_a_cpu_holds_weights_in_32_bits():
    model = MODELS["HuggingFaceTB/SmolLM2-1.7B-Instruct"]
    assert fit_of(model, 6 * GIB, on_gpu=False).label is FitLabel.DOES_NOT_FIT
    assert fit_of(model, 16 * GIB, on_gpu=False).precision is Precision.FLOAT32
