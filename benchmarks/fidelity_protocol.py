"""The measurement itself: an exact reading, a cache made from it, the text after it, and figures.

Knows any causal model of transformers and any cache it accepts. Must not know how a cache
compresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from fidelity_bytes import held_bytes
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

BYTES_UNCOMPRESSED = 2
"""Bytes of one value in the 16-bit cache that sizes are compared with."""

_PREFILL_CHUNK = 512


@dataclass(frozen=True, eq=False)
class ExactReading:
    """A text as the uncompressed model reads it.

    Args:
        prefix_ids: What goes into the cache first. [1, P], int64.
        next_ids: What is fed after it. [1, T], int64.
        target_ids: What the text goes on with after each of `next_ids`. [T], int64.
        chunk: Tokens of one step after the prefix.
        prefix: Keys and values [1, H_kv, P, D] of the prefix, for every layer.
        log_probs: Distributions after each of `next_ids`. [T, vocabulary], float32.
    """

    prefix_ids: torch.Tensor
    next_ids: torch.Tensor
    target_ids: torch.Tensor
    chunk: int
    prefix: Sequence[tuple[torch.Tensor, torch.Tensor]]
    log_probs: torch.Tensor

    def uncompressed_bytes(self, num_tokens: int) -> int:
        """What the keys and values of so many tokens take in 16 bits."""
        values = sum(key[0, :, 0].numel() + value[0, :, 0].numel() for key, value in self.prefix)
        return values * num_tokens * BYTES_UNCOMPRESSED


@dataclass(frozen=True)
class Method:
    """One way to hold a prefix.

    Args:
        name: What to call it, unique.
        family: What its points are drawn as.
        make: Makes the cache that holds the prefix of a reading.
        settle: Called with the cache after every chunk, for a cache that must be told that a
            stretch of text is over.
    """

    name: str
    family: str
    make: Callable[[PreTrainedModel, ExactReading], Cache]
    settle: Callable[[Cache], None] = lambda cache: None


def read_exactly(
    model: PreTrainedModel, ids: torch.Tensor, num_prefix: int, chunk: int
) -> ExactReading:
    """Let the uncompressed model read a text.

    Args:
        model: The model.
        ids: Prefix, compared tokens and one more. [1, P + T + 1], int64.
        num_prefix: P.
        chunk: Tokens of one step after the prefix.
    """
    ids = ids.to(model.device)
    prefix_ids, next_ids = ids[:, :num_prefix], ids[:, num_prefix:-1]
    cache = DynamicCache(config=model.config)
    for part in prefix_ids.split(_PREFILL_CHUNK, dim=1):
        _forward(model, cache, part, logits_to_keep=1)
    prefix = [(layer.keys, layer.values) for layer in cache.layers]
    log_probs = torch.cat(
        [_forward(model, cache, part).log_softmax(-1) for part in next_ids.split(chunk, dim=1)]
    )
    return ExactReading(prefix_ids, next_ids, ids[0, num_prefix + 1 :], chunk, prefix, log_probs)


def hold_prefix(layers: Sequence[CacheLayerMixin], reading: ExactReading) -> Cache:
    """Make a cache of these layers and give it the exact prefix in one piece.

    That is what every one of them sees when `generate()` reads a prompt in one pass: the prompt's
    own attention is exact, and its vectors are coded once.
    """
    cache = Cache(layers=list(layers))
    for index, (key, value) in enumerate(reading.prefix):
        cache.update(key, value, index)
    return cache


def measure(model: PreTrainedModel, method: Method, reading: ExactReading) -> dict[str, float]:
    """Feed the text after the prefix the way it was written, and compare every distribution.

    Returns:
        Bytes and factor with the prefix in the cache, the same at the end, and the means over
        the compared tokens: KL divergence and difference of negative log-likelihood in nats,
        share of tokens with the same likeliest next one.
    """
    cache = method.make(model, reading)
    num_prefix, num_next = reading.prefix_ids.shape[1], reading.next_ids.shape[1]
    sizes = _sizes(model, cache, reading, num_prefix, "")
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, num_next, reading.chunk):
        part = slice(start, start + reading.chunk)
        log_probs = _forward(model, cache, reading.next_ids[:, part]).log_softmax(-1)
        method.settle(cache)
        sums += _compare(reading.log_probs[part], log_probs, reading.target_ids[part])
    kl, delta_nll, top1 = (sums / num_next).tolist()
    sizes |= _sizes(model, cache, reading, num_prefix + num_next, "final_")
    return {**sizes, "kl": kl, "delta_nll": delta_nll, "top1_agreement": top1}


def _compare(
    reference: torch.Tensor, log_probs: torch.Tensor, target_ids: torch.Tensor
) -> torch.Tensor:
    """Sums over tokens of KL, difference of NLL, and same top token. [3], float64."""
    kl = (reference.exp() * (reference - log_probs)).sum(-1)
    targets = target_ids.unsqueeze(-1)
    delta_nll = (reference.gather(-1, targets) - log_probs.gather(-1, targets)).squeeze(-1)
    same = reference.argmax(-1) == log_probs.argmax(-1)
    return torch.stack([part.double().sum().cpu() for part in (kl, delta_nll, same)])


def _sizes(
    model: PreTrainedModel, cache: Cache, reading: ExactReading, num_tokens: int, label: str
) -> dict[str, float]:
    stored, uncompressed = held_bytes(cache, model), reading.uncompressed_bytes(num_tokens)
    if not stored:
        raise RuntimeError("The walk through this cache found no tensor to count.")
    return {
        f"{label}stored_bytes": stored,
        f"{label}uncompressed_bytes": uncompressed,
        f"{label}factor": uncompressed / stored,
    }


@torch.no_grad()
def _forward(
    model: PreTrainedModel, cache: Cache, ids: torch.Tensor, logits_to_keep: int = 0
) -> torch.Tensor:
    """Logits after each token of `ids` [1, T]. [T, vocabulary], float32."""
    output = model(
        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=logits_to_keep
    )
    return output.logits[0].float()
