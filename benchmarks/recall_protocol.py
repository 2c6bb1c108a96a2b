"""The measurement of recall: one reading, many ways to compress it, the same questions to each.

Knows the parts of a `CompressedCache`. Must not know tasks or tables. A text is read, and read
again, once; every method then gets a copy of that cache with its span still open, and chooses what
stays. The questions of a context are asked all at once, in a batch, of the vectors that the packed
bytes decode to; an answer counts when every token of it is the model's likeliest one, which is what
greedy decoding would write.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from recall_tasks import Question
from transformers import AttentionInterface, PreTrainedModel

import nexusquant
from nexusquant.cache.layer import CompressedLayer
from nexusquant.eviction import Observation, select_kept

_BATCHED = "recall_batched"


@dataclass(frozen=True, eq=False)
class Held:
    """One layer as attention sees it: keys, values [H_kv, T, D] and which are there [H_kv, T]."""

    keys: torch.Tensor
    values: torch.Tensor
    is_there: torch.Tensor


def compress(
    reading: nexusquant.CompressedCache,
    scores: Sequence[torch.Tensor],
    eviction: nexusquant.EvictionConfig,
) -> nexusquant.CompressedCache:
    """A copy of an open cache after the choice that scores and budgets make."""
    cache = copy.deepcopy(reading)
    kept = select_kept(scores, eviction.keep_ratio, eviction.head_floor, eviction.newest_share)
    for layer, mask in zip(cache.layers, kept, strict=True):
        layer.commit(mask)
    return cache


def observations(reading: nexusquant.CompressedCache) -> list[Observation]:
    """What one-pass scorers see of an open cache."""
    return [reading._evictor._observe(layer, reading.waiting_tokens()) for layer in reading.layers]


def held_vectors(layer: CompressedLayer) -> Held:
    """Everything a layer holds, its pages decoded."""
    sinks, recent = layer.sink_vectors(), layer._wide_recent()
    if layer.kept.num_tokens == 0:
        keys, values = recent
        return Held(keys, values, torch.ones(keys.shape[:2], dtype=torch.bool))
    lengths = layer.pages.lengths
    positions = layer.kept.positions(sinks[0].shape[1], lengths, keys_device(layer))
    packed = layer.pages.read([0] * len(lengths), positions.shape[1])
    coded = layer.codec.decode(*packed, positions, torch.float32)
    is_coded = torch.arange(positions.shape[1]) < torch.tensor(lengths)[:, None]
    parts = [torch.cat(part, dim=1) for part in zip(sinks, coded, recent, strict=True)]
    exact = [torch.ones(held[0].shape[:2], dtype=torch.bool) for held in (sinks, recent)]
    return Held(*(part.float() for part in parts), torch.cat([exact[0], is_coded, exact[1]], dim=1))


def keys_device(layer: CompressedLayer) -> torch.device:
    """Where a layer's pages are."""
    return layer.pages.page_table.device


def ask(
    model: PreTrainedModel, layers: Sequence[Held], num_seen: int, questions: Sequence[Question]
) -> list[bool]:
    """Which questions are answered word for word after the text that `layers` hold."""
    longest = max(len(q.ids) + len(q.answer_ids) for q in questions)
    ids = torch.zeros((len(questions), longest), dtype=torch.int64)
    for row, question in zip(ids, questions, strict=True):
        text = torch.tensor([*question.ids, *question.answer_ids])
        row[: text.numel()] = text

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        output = _batched_attention(query, key, value, layers[module.layer_idx], scaling)
        return output.transpose(1, 2), None

    before = model.config._attn_implementation
    AttentionInterface.register(_BATCHED, attend)
    model.set_attn_implementation(_BATCHED)
    try:
        positions = torch.arange(num_seen, num_seen + longest).expand(len(questions), -1)
        with torch.no_grad():
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    finally:
        model.set_attn_implementation(before)
    return [_is_answered(row, q) for row, q in zip(logits, questions, strict=True)]


def _is_answered(logits: torch.Tensor, question: Question) -> bool:
    first, count = len(question.ids) - 1, len(question.answer_ids)
    likeliest = logits[first : first + count].argmax(dim=-1)
    return likeliest.tolist() == list(question.answer_ids)


def _batched_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, held: Held, scaling: float
) -> torch.Tensor:
    """Every row of the batch sees the same past, and itself causally. [B, H, Q, D_v]."""
    num_rows, num_heads, q_len, dim = query.shape
    num_kv_heads = key.shape[1]
    rows = (query * scaling).unflatten(1, (num_kv_heads, -1))
    # [H_kv, B * groups * Q, T]: one product for the whole batch
    past = rows.transpose(0, 1).reshape(num_kv_heads, -1, dim) @ held.keys.mT
    past.masked_fill_(~held.is_there.unsqueeze(1), float("-inf"))
    own = rows @ key.unsqueeze(2).mT
    own.masked_fill_(torch.ones(q_len, q_len, dtype=torch.bool).triu(1), float("-inf"))
    own = own.transpose(0, 1).reshape(num_kv_heads, -1, q_len)
    weights = torch.cat([past, own], dim=-1).softmax(dim=-1)
    num_past = held.keys.shape[1]
    of_past = (weights[..., :num_past] @ held.values).view(num_kv_heads, num_rows, -1, q_len, dim)
    own_weights = weights[..., num_past:].view(num_kv_heads, num_rows, -1, q_len, q_len)
    of_own = own_weights @ value.transpose(0, 1).unsqueeze(2)
    return (of_past + of_own).transpose(0, 1).reshape(num_rows, num_heads, q_len, dim)
