"""Measures a model once, so that it can be coded well: what keys look like, what errors cost.

Knows a model's forward and backward. Must not know files of profiles or widgets.

The first part of each text stands for what is in a cache. Its rest follows, and after that the
first part once more: there the model looks things up, as it does when it is asked about a text, and
the keys that it finds them by and the values that it finds show what they are worth.

The cost of an error is the Fisher information: the mean outer product of the gradient of log p(y)
by what is held, with y drawn from the model's own predictions. Everything downstream is in it
(queries, attention, values, later layers), so that bits can compete over all layers. Nothing flows
through the first part itself: it was read before anything was coded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexusquant.cache import (
    ModelProfile,
    ProfileBuilder,
    checkpointed,
    forward_options,
    watched_past,
)
from nexusquant.engine.events import LoadProgress
from nexusquant.errors import UnsupportedModelError

TEXTS = ("prose.txt", "speech.txt", "code.txt")
TEXT_DIR = Path(__file__).parent / "texts"
TOKENS_PER_TEXT = 768
"""Tokens of each text, before a part of it is repeated."""

_PAST_SHARE = 2 / 3
# what looking things up weighs, beside going on with the text; both in the mean of their tokens
_REPEAT_WEIGHT = 0.1

_STEP = "Measuring the model, once"

LEAST_TOKENS = 256
"""Fewer tokens than these do not show a model."""


def build_profile(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    token_ids: torch.Tensor | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
) -> ModelProfile:
    """Measure a model, with built-in texts or a text of one's own.

    Args:
        model: A causal model of transformers, on CPU or CUDA.
        tokenizer: Its tokenizer, to read the built-in texts with.
        token_ids: A text to use instead. [1, T] or [T], int64, T >= 256.
        on_progress: Called after every text.

    Returns:
        The profile, for `prefill` and `CompressedCache`.

    Raises:
        ValueError: Neither tokenizer nor text, or a text that is too short.
        UnsupportedModelError: No gradients flow through this model.
    """
    if token_ids is None and tokenizer is None:
        raise ValueError("Give the model's tokenizer, or token_ids of a text to measure it with.")
    if token_ids is None:
        texts = builtin_texts(tokenizer)
    else:
        length = TOKENS_PER_TEXT
        pieces = token_ids.reshape(1, -1)[:, : len(TEXTS) * length].split(length, 1)
        # of a short rest, all would be taken for the newest tokens
        texts = [piece for piece in pieces if piece is pieces[0] or piece.shape[1] >= LEAST_TOKENS]
    steps = profile_steps(model, texts)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        if on_progress is not None:
            on_progress(progress)


def builtin_texts(tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    """The built-in texts as tokens. Each [1, T], T at most `TOKENS_PER_TEXT`."""
    texts = [read_text(name, tokenizer) for name in TEXTS]
    return [text[:, :TOKENS_PER_TEXT] for text in texts]


def read_text(name: str, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """One of the texts in `TEXT_DIR` as tokens. [1, T]."""
    text = (TEXT_DIR / name).read_text(encoding="utf-8")
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


def profile_steps(
    model: PreTrainedModel, texts: Sequence[torch.Tensor]
) -> Generator[LoadProgress, None, ModelProfile]:
    """Measure a model with texts of token ids, [1, T] each; see `build_profile`."""
    num_tokens = sum(text.shape[1] for text in texts)
    if num_tokens < LEAST_TOKENS:
        raise ValueError(
            f"The text has {num_tokens} tokens; measuring a model takes {LEAST_TOKENS} or more."
        )
    yield LoadProgress(_STEP, 0.0)
    builder = ProfileBuilder(model)
    for number, text in enumerate(texts):
        _read(model, text.to(model.device), builder)
        yield LoadProgress(_STEP, (number + 1) / len(texts))
    return builder.build()


def _read(model: PreTrainedModel, text: torch.Tensor, builder: ProfileBuilder) -> None:
    num_past = int(_PAST_SHARE * text.shape[1])
    token_ids = torch.cat([text, text[:, :num_past]], dim=1)
    watching = watched_past(model, num_past, builder.add_keys, builder.add_values)
    num_new, num_rest = token_ids.shape[1] - num_past, text.shape[1] - num_past
    # a gradient is squared later, and so is the weight of its loss
    weights = torch.full((num_new,), num_rest**-0.5, device=token_ids.device)
    weights[num_rest:] = (_REPEAT_WEIGHT / num_past) ** 0.5
    try:
        with watching, _gradients_of_inputs(model), checkpointed(model):
            options = forward_options(model, num_new)
            output = model(input_ids=token_ids, use_cache=False, **options)
            logits = output.logits[0, -num_new:].float()
            drawn = torch.multinomial(logits.detach().softmax(dim=-1), 1, generator=_seeded(logits))
            losses = torch.nn.functional.cross_entropy(logits, drawn[:, 0], reduction="none")
            (losses * weights).sum().backward()
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UnsupportedModelError(f"No gradients flow through this model: {error}") from error


def _seeded(tensor: torch.Tensor) -> torch.Generator:
    return torch.Generator(tensor.device).manual_seed(0)


@contextmanager
def _gradients_of_inputs(model: PreTrainedModel) -> Iterator[None]:
    """Gradients start at the embeddings, and stay out of the weights."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_(True)
    )
    try:
        with torch.enable_grad():
            yield
    finally:
        hook.remove()
        for parameter in learned:
            parameter.requires_grad_(True)
