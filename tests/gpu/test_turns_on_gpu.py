"""Two answers in turns on a GPU, each with a CUDA graph of its own, say what each says alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_models import VOCABULARY, llama, smollm_shaped

import nexusquant
from nexusquant.cache import ModelProfile
from nexusquant.config import PRESETS, SamplingParams
from nexusquant.engine.decoding import Decoder, RecordingTrial
from nexusquant.engine.prefill import forward
from nexusquant.engine.sampling import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda")
NUM_NEW = 150
texts = torch.randint(0, VOCABULARY, (2, 900), generator=torch.Generator().manual_seed(0))


def answering(
    model, profile: ModelProfile, number: int, preset: str, params: SamplingParams, trial
) -> Iterator[int]:
    """Tokens of an answer over one of the texts, one by one."""
    document, question = texts[number : number + 1, :880], texts[number : number + 1, 880:]
    cache = nexusquant.prefill(model, document, PRESETS[preset], profile=profile)
    logits = forward(model, question.to(GPU), cache)
    cache.finish_prefill()
    sampler = Sampler(params, [1, 2, 3], logits.device)
    decoder = Decoder(model, cache, sampler, logits, NUM_NEW, trial)
    try:
        for _ in range(NUM_NEW):
            yield decoder.next_id()
    finally:
        decoder.close()


@pytest.mark.parametrize("preset", ["off", "safe", "max"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("make", [llama, smollm_shaped])
def test_answers_in_turns_are_those_of_each_alone(make, preset, temperature):
    # exact vectors in 16 bits: steps before a recording round otherwise than recorded ones
    model = make().to(GPU, torch.float32 if preset == "off" else torch.bfloat16)
    profile = nexusquant.build_profile(model, token_ids=texts[:1, :512])
    params = SamplingParams(temperature=temperature, seed=7, max_new_tokens=NUM_NEW)

    def start(trial: RecordingTrial) -> list[Iterator[int]]:
        return [answering(model, profile, n, preset, params, trial) for n in range(2)]

    alone = [list(answer) for answer in start(RecordingTrial())]
    # one trial for both, as they share it in the app
    in_turns = [list(pair) for pair in zip(*start(RecordingTrial()), strict=True)]
    assert [list(column) for column in zip(*in_turns, strict=True)] == alone
