"""The choice of the next token."""

from __future__ import annotations

import pytest
import torch

from nexusquant.config import SamplingParams
from nexusquant.engine.sampling import Sampler

CPU = torch.device("cpu")


def draw(params: SamplingParams, count: int = 50, prompt: tuple[int, ...] = ()) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 40, generator=generator)
    sampler = Sampler(params, prompt, CPU)
    return [int(sampler.next_token(logits)) for _ in range(count)]


def best(count: int) -> set[int]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 40, generator=generator)
    return set(logits[0].topk(count).indices.tolist())


def test_temperature_zero_takes_the_likeliest_token_whatever_else_is_set() -> None:
    params = SamplingParams(temperature=0, top_k=5, top_p=0.5, min_p=0.2)
    assert set(draw(params)) == best(1)


def test_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    assert draw(SamplingParams(seed=3)) == draw(SamplingParams(seed=3))
    assert draw(SamplingParams(seed=3)) != draw(SamplingParams(seed=4))


def test_a_seed_does_not_touch_the_global_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw(SamplingParams(seed=5))
    assert torch.equal(torch.rand(3), expected)


def test_draws_are_those_of_multinomial() -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(SamplingParams(temperature=0.8, top_p=1, seed=7), (1,), CPU)
    random = torch.Generator().manual_seed(7)
    for _ in range(100):
        expected = torch.multinomial((logits / 0.8).softmax(dim=-1), 1, generator=random)
        assert torch.equal(sampler.next_token(logits), expected)


def test_top_k_draws_only_the_k_likeliest() -> None:
    drawn = set(draw(SamplingParams(temperature=3, top_p=1, top_k=3, seed=0), count=200))
    assert drawn == best(3)


def test_a_tiny_top_p_or_a_high_min_p_leaves_one_token() -> None:
    assert set(draw(SamplingParams(top_p=1e-6, seed=0))) == best(1)
    assert set(draw(SamplingParams(top_p=1, min_p=0.999, seed=0))) == best(1)


def test_repetition_penalty_makes_used_tokens_rarer() -> None:
    (likeliest,) = best(1)
    params = SamplingParams(temperature=0, repetition_penalty=50.0)
    assert draw(params, count=1, prompt=(likeliest,)) != [likeliest]
    tokens = draw(params, count=10)
    assert len(set(tokens)) == 10
    # as many as there may be, and the prompt's besides
    few = SamplingParams(temperature=0, repetition_penalty=50.0, max_new_tokens=10)
    assert len({likeliest, *draw(few, count=10, prompt=(likeliest,))}) == 11


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1},
        {"repetition_penalty": 0},
        {"stop": ("",)},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
