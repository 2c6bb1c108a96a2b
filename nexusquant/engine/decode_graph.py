"""The step from one token to the next, recorded once as a CUDA graph and replayed.

Knows a model, a cache's buffers and a sampler. Must not know text, or when an answer ends.

A model of billions of weights is started kernel by kernel by the host, which takes longer than the
kernels do. A graph is started at once. It repeats the same kernels on the same addresses: so the
newest token, its position and the cache's counters live on the device. What is left between two
kernels is made less by having fewer of them: see `OneTokenForwards`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from nexusquant.cache import (
    CacheSteps,
    CompressedCache,
    OneTokenForwards,
    forward_options,
    steps_problem,
)
from nexusquant.engine.sampling import Sampler

WARM_STEPS = 2
"""Steps done kernel by kernel before one is recorded: the first builds kernels and tables, the
second shows whether anything asks the device for a number. Where steps of the model were recorded
before, that is not looked for: recording fails at it too. Where steps with the same coders were
done before, for an earlier answer of a chat, everything is built."""


@dataclass
class RecordingTrial:
    """What is known about recording the steps of a model as a CUDA graph: one answer tries.

    Args:
        problem: Why they cannot be recorded; None while nothing speaks against it.
        is_wanted: Whether somebody asked for it.
        is_proved: Whether it was done.
        forwards: What has the model take fewer kernels in a step, once that is found.
        met: Coders of layers that a step was done with: of whole texts, and of thinned out ones,
            which other kernels read.
    """

    problem: str | None = None
    is_wanted: bool = True
    is_proved: bool = False
    forwards: OneTokenForwards | None = None
    met: tuple[WeakSet, WeakSet] = field(default_factory=lambda: (WeakSet(), WeakSet()))

    def problem_with(self, cache: CompressedCache, device: torch.device) -> str | None:
        """Say why steps over this cache are not recorded, or None if they are to be.

        Args:
            cache: With the whole prompt in it.
            device: Where logits are.
        """
        if not self.is_wanted:
            return "it was not asked for"
        if self.problem is None and device.type != "cuda":
            return f"there are no graphs for the device {device.type!r}"
        return self.problem or steps_problem(cache.layers)


class DecodeGraph:
    """Feeds the newest token and chooses the next, over and over.

    Without a GPU nothing is recorded, but the steps are the same.

    Args:
        model: The model.
        cache: One that `steps_problem` finds nothing with; it stands still until `close`.
        sampler: Chooses.
        token: The newest token, which was not fed yet. [1, 1], int64.
        most_steps: Steps that will be wanted.
        trial: Of this model; None: nothing is known of it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: CompressedCache,
        sampler: Sampler,
        token: torch.Tensor,
        most_steps: int,
        trial: RecordingTrial | None = None,
    ) -> None:
        self._model, self._cache, self._sampler = model, cache, sampler
        self._options = forward_options(model)
        self.token = token.clone()
        self._num_left = most_steps
        self._trial = trial or RecordingTrial()
        if token.is_cuda and self._trial.forwards is None:
            self._trial.forwards = OneTokenForwards(model)
        self._open()

    def make_room(self) -> None:
        """Code a page's worth of tokens where that is due; call it before every `run`.

        Where it fails, some layers have done it and others have not: `rewind` the cache.

        Raises:
            ValueError: Some tokens cannot be coded.
        """
        if not self._steps.is_full:
            return
        if self._steps.can_turn_page:
            self._steps.turn_page()
        else:
            self.close()

    def run(self) -> torch.Tensor:
        """Start a step; the token it will have chosen, in a place that the next step overwrites.

        Raises:
            RuntimeError: The step cannot be recorded, for one that asks the device for a number.
            TypeError, ValueError: The model cannot be called so. After any of them `close` it.
        """
        if self._steps.is_closed:
            self._open()
        if not self.token.is_cuda:
            self._step()
        elif self._is_recorded:
            self._graph.replay()
        elif self._num_warm < self._num_warm_due():
            self._warm_up()
        else:
            self._record()
        self._steps.count()
        self._num_left -= 1
        return self.token

    def close(self, num_undone: int = 0) -> None:
        """Leave the cache as if it had been fed plainly, less the `num_undone` newest tokens."""
        if self.token.is_cuda:
            # a graph must not be gone before its kernels are
            torch.cuda.synchronize(self.token.device)
        self._steps.close(num_undone)
        self._graph = self._recording = None

    def _open(self) -> None:
        self._steps = CacheSteps(self._cache, self._num_left)
        self._num_warm = 0
        self._prepare()

    def _prepare(self) -> None:
        self._is_recorded = False
        self._graph: torch.cuda.CUDAGraph | None = None
        if self.token.is_cuda:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._sampler.random)
            # other threads may use the GPU meanwhile
            self._recording = torch.cuda.graph(self._graph, capture_error_mode="thread_local")

    @torch.no_grad()
    def _step(self) -> None:
        """Everything that is recorded."""
        forwards = self._trial.forwards
        with forwards.in_force() if forwards else nullcontext(), self._cache.scaled_positions():
            output = self._model(
                input_ids=self.token,
                position_ids=self._steps.position,
                past_key_values=self._cache,
                use_cache=True,
                **self._options,
            )
        self.token.copy_(self._sampler.next_token(output.logits[:, -1]))
        self._steps.tick()

    def _num_warm_due(self) -> int:
        if not self._trial.is_proved:
            return WARM_STEPS
        met, layers = self._trial.met, self._cache.layers
        return 0 if all(layer.codec in met[layer.kept.is_whole] for layer in layers) else 1

    def _warm_up(self) -> None:
        """Do a step on the stream that records later, whose libraries then have their memory."""
        here, aside = torch.cuda.current_stream(), self._recording.capture_stream
        aside.wait_stream(here)
        with torch.cuda.stream(aside), _questions_refused(self._num_warm > 0):
            self._step()
        here.wait_stream(aside)
        self._num_warm += 1
        for layer in self._cache.layers:
            self._trial.met[layer.kept.is_whole].add(layer.codec)

    def _record(self) -> None:
        try:
            # the outer context restores the stream where recording fails at its end
            with torch.cuda.stream(torch.cuda.current_stream()), self._recording:
                self._step()
        except RuntimeError:
            if self._num_warm:
                raise
            # something was missing after all: a step that is done builds it
            self._prepare()
            self._warm_up()
            return
        self._is_recorded = self._trial.is_proved = True
        self._graph.replay()


@contextmanager
def _questions_refused(is_refused: bool) -> Iterator[None]:
    """Raise RuntimeError where the host waits for a number from the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # that it may miss some: recording finds those
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error" if is_refused else before)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
