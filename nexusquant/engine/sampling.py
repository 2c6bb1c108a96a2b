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
    """Chooses tokens one after the other, without a question to the device.

    Args:
        params: How to choose, and how many tokens at most.
        prompt_ids: Tokens that count as used for the repetition penalty.
        device: Where the logits are.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], device: torch.device
    ) -> None:
        self._params = params
        self._processors = _make_processors(params)
        # as long as it will ever be; what is not there yet repeats what is
        filler = list(prompt_ids[:1]) * params.max_new_tokens
        self._used = torch.tensor([[*prompt_ids, *filler]], dtype=torch.long, device=device)
        self._num_used = torch.tensor(len(prompt_ids), device=device)
        self.random = torch.Generator(device=device)
        if params.seed is None:
            self.random.seed()
        else:
            self.random.manual_seed(params.seed)

    def next_token(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose from logits [1, vocabulary] and remember the choice. [1, 1], int64."""
        scores = self._processors(self._used, logits.float())
        if self._params.temperature == 0:
            token = scores.argmax(dim=-1, keepdim=True)
        else:
            token = self._draw(scores.softmax(dim=-1))
        if self._params.repetition_penalty != 1:
            self._remember(token)
        return token

    def _draw(self, weights: torch.Tensor) -> torch.Tensor:
        # what torch.multinomial does for one number, less its look at the weights
        return (weights / torch.empty_like(weights).exponential_(generator=self.random)).argmax(
            dim=-1, keepdim=True
        )

    def _remember(self, token: torch.Tensor) -> None:
        if self._used.shape[1] == 0:
            self._used = token.repeat(1, self._params.max_new_tokens)
        places = torch.arange(self._used.shape[1], device=token.device)
        self._used.copy_(torch.where(places < self._num_used, self._used, token))
        self._num_used.add_(1)


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
