"""Measures a model once, so that its keys can be coded well: what they look like, what errors cost.

Knows a model's forward and backward. Must not know files of profiles or widgets.

Each text is read twice over, as one: in the second half the model looks things up in the first, as
it does when it is asked about a text, and the keys that it finds them by show what they are worth.

The cost of an error in a key is the Fisher information: the mean outer product of the gradient of
log p(y) by that key, with y drawn from the model's own predictions. Everything downstream is in
it (queries, attention, values, later layers), so that bits can compete over all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexusquant.cache import ModelProfile, ProfileBuilder, checkpointed, watched_keys
from nexusquant.engine.events import LoadProgress
from nexusquant.errors import UnsupportedModelError

TEXTS = ("prose.txt", "speech.txt", "code.txt")
TEXT_DIR = Path(__file__).parent / "texts"
TOKENS_PER_TEXT = 512
"""Tokens of each text, before it is repeated."""

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
        texts = list(token_ids.reshape(1, -1)[:, : len(TEXTS) * length].split(length, 1))
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
        _read(model, torch.cat([text, text], dim=1).to(model.device), builder)
        yield LoadProgress(_STEP, (number + 1) / len(texts))
    return builder.build()


def _read(model: PreTrainedModel, token_ids: torch.Tensor, builder: ProfileBuilder) -> None:
    try:
        with watched_keys(model, builder.add), _gradients_of_inputs(model), checkpointed(model):
            logits = model(input_ids=token_ids, use_cache=False).logits[0].float()
            drawn = torch.multinomial(logits.detach().softmax(dim=-1), 1, generator=_seeded(logits))
            torch.nn.functional.cross_entropy(logits, drawn[:, 0], reduction="sum").backward()
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
