"""The tokens of an answer, one after the other, by whatever steps the model allows.

Knows how a step is done and read. Must not know text, or when an answer ends.
"""

from __future__ import annotations

from collections import deque

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache
from nexusquant.engine.decode_graph import DecodeGraph, RecordingTrial
from nexusquant.engine.prefill import forward
from nexusquant.engine.sampling import Sampler


class Decoder:
    """Gives the tokens of an answer. With a graph, the host reads one while the next is computed.

    Args:
        model: The model.
        cache: Its cache, with the whole prompt in it.
        sampler: Chooses; made for at least `most_tokens`.
        logits: After the prompt's last token. [1, vocabulary].
        most_tokens: Tokens that may be asked for.
        trial: Of this model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: CompressedCache,
        sampler: Sampler,
        logits: torch.Tensor,
        most_tokens: int,
        trial: RecordingTrial,
    ) -> None:
        self._model, self._cache, self._sampler = model, cache, sampler
        self._trial, self._most_tokens = trial, most_tokens
        self.problem = trial.problem_with(cache, logits.device)
        self._graph: DecodeGraph | None = None
        self._token = sampler.next_token(logits)
        self._arriving = deque([_Arrival(self._token)])
        self._num_started, self._num_given = 1, 0

    def next_id(self) -> int:
        """The next token's id. The cache is fed with all tokens before it."""
        while self._num_started < self._num_wanted():
            self._start()
        self._num_given += 1
        return self._arriving.popleft().value()

    def close(self) -> None:
        """Leave the cache with all tokens but the last one given."""
        if self._graph is not None:
            self._graph.close(self._num_started - max(1, self._num_given))
            self._graph = None

    def _num_wanted(self) -> int:
        # nobody is to wait for a second token before seeing the first
        is_ahead = self.problem is None and self._num_given > 0
        return min(self._num_given + 1 + is_ahead, self._most_tokens)

    def _start(self) -> None:
        if self.problem is not None:
            logits = forward(self._model, self._token, self._cache)
            self._token = self._sampler.next_token(logits)
        elif not self._run_graph():
            return
        self._arriving.append(_Arrival(self._token))
        self._num_started += 1

    def _run_graph(self) -> bool:
        """Start a recorded step; False where that failed, and steps are plain from now on."""
        if self._graph is not None:
            self._graph.make_room()
        try:
            if self._graph is None:
                given = (self._model, self._cache, self._sampler, self._token)
                num_steps = self._most_tokens - self._num_started
                self._graph = DecodeGraph(*given, num_steps, self._trial)
            self._token = self._graph.run()
        except (RuntimeError, TypeError, ValueError) as error:
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: Exception) -> None:
        first_line = (str(error).strip().splitlines() or [""])[0]
        self.problem = f"{type(error).__name__}: {first_line}"
        # memory may be there the next time
        if not isinstance(error, torch.OutOfMemoryError):
            self._trial.problem = self.problem
        if self._graph is not None:
            self._token = self._graph.token
            self._graph.close()
            self._graph = None


class _Arrival:
    """A token on its way to the host."""

    def __init__(self, token: torch.Tensor) -> None:
        # a copy in any case: the next step overwrites the token
        self._token = token.to("cpu", non_blocking=True, copy=True)
        self._event: torch.cuda.Event | None = None
        if token.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record()

    def value(self) -> int:
        """Wait for it."""
        if self._event is not None:
            self._event.synchronize()
        return int(self._token)
