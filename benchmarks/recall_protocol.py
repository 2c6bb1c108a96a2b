"""The measurement of recall: one reading, many ways to compress it, the same questions to each.

Knows the parts of a `CompressedCache`. Must not know tasks or tables. A text is read, and read
again, once, and coded once with each pair of bits: a vector's code does not depend on what becomes
of the others, so that a method only has to choose what stays. The questions of a context are asked
all at once, in a batch, of the vectors that the packed bytes decode to; an answer counts when every
token of it is the model's likeliest one, which is what greedy decoding would write.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from recall_tasks import Question
from transformers import AttentionInterface, PreTrainedModel

import nexusquant
from nexusquant.cache.codec import LayerCodec
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.measure import measure
from nexusquant.eviction import Observation, per_byte, select_kept

_BATCHED = "recall_batched"
_MOST_TRIES = 16


@dataclass(frozen=True, eq=False)
class Held:
    """One layer as attention sees it: keys, values [H_kv, T, D] and which are there [H_kv, T]."""

    keys: torch.Tensor
    values: torch.Tensor
    is_there: torch.Tensor

    def nothing(self) -> Held:
        """The same layer before anything was read."""
        return Held(self.keys[:, :0], self.values[:, :0], self.is_there[:, :0])

    def only(self, kept: torch.Tensor, first: int) -> Held:
        """The same layer without what is not kept of the tokens from `first` on; [H_kv, n]."""
        is_there = self.is_there.clone()
        is_there[:, first : first + kept.shape[1]] &= kept
        return replace(self, is_there=is_there)


class _Roomy(LayerCodec):
    """Has room made for vectors, and codes none: bytes are counted before anything is in them."""

    def encode_into(self, *_: object) -> None:
        """See `LayerCodec.encode_into`."""


class CodedText:
    """A text that was read, with all of it coded.

    Args:
        reading: An open cache of the text; stays as it is.
        codecs: Coders of every layer.
    """

    def __init__(
        self, reading: nexusquant.CompressedCache, codecs: Sequence[LayerCodec | None]
    ) -> None:
        self._reading = reading
        self._codecs = [_Roomy(**vars(codec)) for codec in codecs]
        self._pair_bytes = [codec.pair_bytes for codec in codecs]
        whole = self._committed(codecs, [None] * len(codecs))
        self.layers = [held_vectors(layer) for layer in whole]
        self.usage = measure(whole, [])

    def per_byte(self, scores: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Scores of the second reading as the cache weighs them."""
        return per_byte(scores, self._pair_bytes)

    def compress(
        self,
        scores: Sequence[torch.Tensor] | None,
        eviction: nexusquant.EvictionConfig | None,
        least_bytes: int = 0,
    ) -> tuple[list[Held], nexusquant.CacheUsage]:
        """What is held after the choice that scores and budgets make, and its measured size.

        Args:
            scores: For each layer, [H_kv, waiting]; None removes nothing.
            eviction: How much to keep; None with no scores.
            least_bytes: More is kept until so many bytes are used: half-full pages make the same
                number of pairs cost more in one method than in another.
        """
        if scores is None:
            return self.layers, self.usage
        for _ in range(_MOST_TRIES):
            settings = (eviction.keep_ratio, eviction.head_floor, eviction.newest_share)
            kept = select_kept(scores, *settings, self._pair_bytes)
            usage = measure(self._committed(self._codecs, kept), [])
            missing = least_bytes - usage.stored_bytes
            if missing <= 0 or eviction.keep_ratio == 1:
                break
            # a little more than what is missing: new pairs fill pages up before they open others
            step = 1.1 * missing / dict(usage.bytes_by_part)["codes"] + 0.001
            more = eviction.keep_ratio * (1 + step)
            eviction = replace(eviction, keep_ratio=min(1.0, more))
        num_sinks = self._reading.config.num_sink_tokens
        held = [layer.only(mask, num_sinks) for layer, mask in zip(self.layers, kept, strict=True)]
        return held, usage

    def _committed(
        self, codecs: Sequence[LayerCodec | None], kept: Sequence[torch.Tensor | None]
    ) -> list[CompressedLayer]:
        """The reading's layers after they let go; they themselves stay as they are."""
        layers = [copy.copy(layer) for layer in self._reading.layers]
        for layer, codec, mask in zip(layers, codecs, kept, strict=True):
            layer.blank_codec = layer.codec = codec
            layer._open_pages()
            layer.commit(mask)
        return layers


def observations(reading: nexusquant.CompressedCache) -> list[Observation]:
    """What one-pass scorers see of an open cache."""
    return [reading._evictor._observe(layer, reading.waiting_tokens()) for layer in reading.layers]


def held_vectors(layer: CompressedLayer) -> Held:
    """Everything a layer holds, its pages decoded."""
    sinks, recent = layer.sink_vectors(), layer._wide_recent()
    if layer.kept.num_tokens == 0:
        return Held(*recent, _all_there(recent[0]))
    lengths, device = layer.pages.lengths, layer.pages.page_table.device
    positions = layer.kept.positions(sinks[0].shape[1], lengths, device)
    packed = layer.pages.read([0] * len(lengths), positions.shape[1])
    coded = layer.codec.decode(*packed, positions, torch.float32)
    place = torch.arange(positions.shape[1], device=device)
    is_coded = place < torch.tensor(lengths, device=device)[:, None]
    parts = [torch.cat(part, dim=1) for part in zip(sinks, coded, recent, strict=True)]
    is_there = torch.cat([_all_there(sinks[0]), is_coded, _all_there(recent[0])], dim=1)
    return Held(*(part.float() for part in parts), is_there)


def _all_there(keys: torch.Tensor) -> torch.Tensor:
    return torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)


def ask(
    model: PreTrainedModel, layers: Sequence[Held], num_seen: int, questions: Sequence[Question]
) -> list[list[bool]]:
    """Which tokens of each answer are the likeliest after the text that `layers` hold.

    Args:
        model: The model that read it.
        layers: All of its layers.
        num_seen: Tokens of the text: the questions' positions begin there.
        questions: Each is asked for itself, and followed by its own answer.
    """
    if not questions:
        return []
    texts = [(*question.ids, *question.answer_ids) for question in questions]
    found = []
    for likeliest, question in zip(
        _likeliest(model, layers, num_seen, texts), questions, strict=True
    ):
        answer = question.answer_ids
        first = len(question.ids) - 1
        given = likeliest[first : first + len(answer)]
        found.append([one == other for one, other in zip(given, answer, strict=True)])
    return found


def answered(
    model: PreTrainedModel,
    layers: Sequence[Held],
    num_seen: int,
    questions: Sequence[Question],
    num_tokens: int,
) -> list[Question]:
    """The questions with the answers that greedy decoding writes; no token ends them early."""
    texts = [list(question.ids) for question in questions]
    for _ in range(num_tokens):
        for text, likeliest in zip(texts, _likeliest(model, layers, num_seen, texts), strict=True):
            text.append(likeliest[len(text) - 1])
    return [
        replace(question, answer_ids=tuple(text[len(question.ids) :]))
        for question, text in zip(questions, texts, strict=True)
    ]


@torch.no_grad()
def _likeliest(
    model: PreTrainedModel,
    layers: Sequence[Held],
    num_seen: int,
    texts: Sequence[Sequence[int]],
) -> list[list[int]]:
    """The likeliest token after each token of some texts; what follows their ends is filling."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    positions = torch.arange(num_seen, num_seen + longest).expand(len(texts), -1)
    with _attending(model, layers):
        output = model(
            input_ids=ids.to(model.device),
            position_ids=positions.to(model.device),
            use_cache=False,
        )
    return output.logits.argmax(dim=-1).tolist()


@contextmanager
def _attending(model: PreTrainedModel, layers: Sequence[Held]) -> Iterator[None]:
    """Every row of a batch that the model is given comes after what `layers` hold."""

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
        yield
    finally:
        model.set_attn_implementation(before)


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
    later = torch.ones(q_len, q_len, dtype=torch.bool, device=query.device).triu(1)
    own.masked_fill_(later, float("-inf"))
    own = own.transpose(0, 1).reshape(num_kv_heads, -1, q_len)
    weights = torch.cat([past, own], dim=-1).softmax(dim=-1)
    num_past = held.keys.shape[1]
    of_past = (weights[..., :num_past] @ held.values).view(num_kv_heads, num_rows, -1, q_len, dim)
    own_weights = weights[..., num_past:].view(num_kv_heads, num_rows, -1, q_len, q_len)
    of_own = own_weights @ value.transpose(0, 1).unsqueeze(2)
    return (of_past + of_own).transpose(0, 1).reshape(num_rows, num_heads, q_len, dim)
