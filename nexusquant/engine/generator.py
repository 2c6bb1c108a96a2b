"""Token ids in, events out: prefill and the decode loop over one cache.

Knows a model, its tokenizer and a cache. Must not know chats, documents or widgets.
Closing a generator stops the work at the next step.
"""

from __future__ import annotations

import time
from collections.abc import Generator as Events
from collections.abc import Sequence
from contextlib import closing

import torch

from nexusquant.cache import CompressedCache
from nexusquant.config import RopeScaling, SamplingParams
from nexusquant.engine.decoding import Decoder
from nexusquant.engine.detokenizer import Detokenizer
from nexusquant.engine.events import (
    Finished,
    FinishReason,
    PrefillProgress,
    RereadProgress,
    TextDelta,
)
from nexusquant.engine.model_loader import LoadedModel
from nexusquant.engine.reading import read_chunks
from nexusquant.engine.rereading import reread_chunks
from nexusquant.engine.sampling import Sampler
from nexusquant.engine.stats import GenerationStats
from nexusquant.errors import ContextLengthError


class Generator:
    """Runs one model. One at a time: caches are kept apart, the device is not.

    Args:
        loaded: The model and its tokenizer.
        scaling: How positions are scaled in the caches it is given; None: not at all.
    """

    def __init__(self, loaded: LoadedModel, scaling: RopeScaling | None = None) -> None:
        self._loaded = loaded
        self._context_length = round(loaded.context_length * (scaling.factor if scaling else 1))

    def prefill(
        self, token_ids: Sequence[int], cache: CompressedCache
    ) -> Events[PrefillProgress | RereadProgress, None, torch.Tensor]:
        """Read tokens into the cache and close the span.

        Args:
            token_ids: What to read; at least one.
            cache: Where it goes, after what is there.

        Yields:
            Progress after every chunk.

        Returns:
            Logits after the last token. [1, vocabulary].

        Raises:
            ValueError: Nothing to read.
            ContextLengthError: More than the context holds; offers what would make room.
        """
        self._check_room(len(token_ids), cache)
        ids = torch.tensor([list(token_ids)])
        return (yield from read_chunks(self._loaded.model, ids, cache))

    def settle(
        self,
        newest_ids: Sequence[int],
        cache: CompressedCache,
        least: int | None = None,
        num_to_come: int = 0,
    ) -> Events[RereadProgress, None, None]:
        """Evict among the short spans and the generated text of past turns, once they are enough.

        Args:
            newest_ids: The newest tokens that the cache has seen, up to the last one.
            cache: Where they are; no mark of a moment among them may be left.
            least: How many are enough; None: the config's `min_span`.
            num_to_come: Tokens that will be read next.

        Yields:
            Progress after every chunk that is read again.
        """
        ids = torch.tensor([list(newest_ids)])
        model = self._loaded.model
        yield from reread_chunks(model, ids, cache, least, num_to_come=num_to_come)
        cache.finish_prefill()

    def generate(
        self,
        token_ids: Sequence[int],
        cache: CompressedCache,
        params: SamplingParams,
        asked: float | None = None,
    ) -> Events[PrefillProgress | RereadProgress | TextDelta | Finished, None, None]:
        """Read `token_ids`, then answer.

        Args:
            token_ids: The rest of the prompt, after what the cache holds.
            cache: Grows by the prompt and by the answer but for its last token.
            params: How to choose tokens and when to end.
            asked: When somebody began to wait, in seconds of `time.perf_counter`; None: now.

        Yields:
            Progress for every chunk, `TextDelta` for every token (its text may be empty),
            and `Finished`.

        Raises:
            ValueError: Nothing to read.
            ContextLengthError: More than the context holds; offers what would make room.
        """
        clock = _TurnClock(len(token_ids), asked)
        logits = yield from self.prefill(token_ids, cache)
        clock.prefill_done()
        sampler = Sampler(params, token_ids, logits.device)
        text = Detokenizer(self._loaded.tokenizer, params.stop)
        new_ids: list[int] = []
        most = min(params.max_new_tokens, self._context_length - cache.num_seen_tokens + 1)
        model, trial = self._loaded.model, self._loaded.trial
        decoder = Decoder(model, cache, sampler, logits, most, trial)
        reason = None
        with closing(decoder):
            while reason is None:
                new_ids.append(decoder.next_id())
                clock.token_done()
                is_end = new_ids[-1] in self._loaded.end_ids
                yield TextDelta("" if is_end else text.add(new_ids[-1]))
                reason = _finish_reason(is_end or text.is_stopped, len(new_ids), most, params)
        yield TextDelta(text.finish())
        yield Finished(reason, self._stats(clock, cache, decoder.problem), tuple(new_ids))

    def _check_room(self, num_new: int, cache: CompressedCache) -> None:
        if num_new == 0:
            raise ValueError("There is no text to read.")
        needed = cache.num_seen_tokens + num_new
        if needed > self._context_length:
            raise _too_long(needed, self._context_length, self._loaded.scalings_for(needed))

    def _stats(
        self, clock: _TurnClock, cache: CompressedCache, problem: str | None
    ) -> GenerationStats:
        return GenerationStats(
            num_prompt_tokens=clock.num_prompt,
            num_new_tokens=clock.num_new,
            ttft_s=clock.first_token - clock.asked,
            prefill_tok_s=clock.num_prompt / max(clock.prefilled - clock.started, 1e-9),
            decode_tok_s=clock.decode_tok_s(),
            usage=cache.usage(),
            memory=self._loaded.memory(),
            graph_problem=problem if self._is_recorded_if_possible() else None,
        )

    def _is_recorded_if_possible(self) -> bool:
        # a CPU's model has its own note
        return self._loaded.device.type == "cuda" and self._loaded.trial.is_wanted


def _finish_reason(
    is_end: bool, num_new: int, most: int, params: SamplingParams
) -> FinishReason | None:
    if is_end:
        return FinishReason.END
    if num_new >= params.max_new_tokens:
        return FinishReason.LENGTH
    return FinishReason.CONTEXT if num_new >= most else None


def _too_long(
    num_tokens: int, context_length: int, offers: tuple[RopeScaling, ...]
) -> ContextLengthError:
    message = (
        f"The text has {num_tokens:,} tokens; the model's context holds {context_length:,}. "
        "Choose fewer pages or a shorter text: nothing is cut off without you."
    )
    if offers:
        message += (
            f" Or let the positions of this text be scaled ({offers[0]}): the model then reads "
            "beyond the length it was trained on, and less exactly the further it goes."
        )
    return ContextLengthError(
        message, num_tokens=num_tokens, context_length=context_length, offers=offers
    )


class _TurnClock:
    """When the parts of a turn were done. Sampling waits for the device, so the times are real."""

    def __init__(self, num_prompt: int, asked: float | None) -> None:
        self.started = self.prefilled = self.first_token = self.last_token = time.perf_counter()
        self.asked = self.started if asked is None else asked
        self.num_prompt, self.num_new = num_prompt, 0

    def prefill_done(self) -> None:
        self.prefilled = time.perf_counter()

    def token_done(self) -> None:
        self.last_token = time.perf_counter()
        self.num_new += 1
        if self.num_new == 1:
            self.first_token = self.last_token

    def decode_tok_s(self) -> float:
        if self.num_new < 2:
            return 0.0
        return (self.num_new - 1) / max(self.last_token - self.first_token, 1e-9)
