"""Logits to the next token, through transformers' own processors.

Knows logits and ids. Must not know text or a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nexusquant.config import SamplingParams


class Sampler:
    """Chooses tokens one after the other.

    Args:
        params: How to choose.
        prompt_ids: Tokens that count as used for the repetition penalty.
        device: Where the logits are.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], device: torch.device
    ) -> None:
        self._params = params
        self._processors = _make_processors(params)
        self._used = torch.tensor([list(prompt_ids)], dtype=torch.long, device=device)
        self._random = torch.Generator(device=device)
        if params.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(params.seed)

    def next_token(self, logits: torch.Tensor) -> int:
        """Choose from logits [1, vocabulary] and remember the choice."""
        scores = self._processors(self._used, logits.float())
        if self._params.temperature == 0:
            token = scores.argmax(dim=-1, keepdim=True)
        else:
            token = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._random)
        self._used = torch.cat([self._used, token], dim=1)
        return int(token)


def _make_processors(params: SamplingParams) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)))
    if params.temperature == 0:
        return processors
    processors.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(float(params.top_p)))
    if params.min_p:
        processors.append(MinPLogitsWarper(float(params.min_p)))
    return processors
