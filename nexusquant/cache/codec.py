"""What one layer's keys and values become on their way into storage, and back.

Knows that keys carry a rotation by position and share a mean. Must not know where vectors are
kept or which of them stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from nexusquant.config import PAGE_SIZE
from nexusquant.kernels import codes_in_place, encode_into
from nexusquant.lattice import (
    E8Quantizer,
    PackedVectors,
    Pairing,
    Rotary,
    encoders_of,
    fit_key_basis,
    key_quantizer,
    share_bits,
)

FIT_QUERIES = 256
"""Newest queries that a basis is fitted to when there is no profile."""

CODED_AT_ONCE = 2**22
"""Numbers of keys that are copied to be coded."""

# where between the first token and a query's own the keys that it reads are taken to be
_READ_FROM = (1 / 8, 3 / 8, 5 / 8, 7 / 8)


class CodingTools(NamedTuple):
    """What coding a layer's vectors takes that is better found for many layers at once.

    Args:
        of_keys: Encoder of keys, stretched; None: nobody found it yet.
        of_values: That of values.
        is_bad: Becomes 1 where a vector cannot be coded, [1], int32; None: that raises.
    """

    of_keys: torch.Tensor | None = None
    of_values: torch.Tensor | None = None
    is_bad: torch.Tensor | None = None


NO_TOOLS = CodingTools()


@dataclass(frozen=True, eq=False)
class LayerCodec:
    """Coders of one layer.

    Args:
        values: Codes values.
        rotary: The model's rotation, shared by its layers; None where there is none.
        pairing: How this layer applies it.
        keys: Codes keys before their rotation; None until it was fitted.
        key_bits: Mean bits per key value of a fit to come.
        key_stretch: Factor on what keys are coded as; see `QuantConfig`.
    """

    values: E8Quantizer
    rotary: Rotary | None
    pairing: Pairing
    keys: E8Quantizer | None
    key_bits: float
    key_stretch: float = 1.0

    @property
    def pair_bytes(self) -> float:
        """Stored bytes of a key and its value; before a fit, those that are to be expected."""
        unfitted = self.values.dim * self.key_bits / 8 + 1
        of_key = unfitted if self.keys is None else self.keys.bytes_per_vector
        return of_key + self.values.bytes_per_vector

    def fits(self, keys: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether vectors are of the size that the coders were made for."""
        key_dim = self.values.dim if self.keys is None else self.keys.dim
        return keys.shape[-1] == key_dim and values.shape[-1] == self.values.dim

    def stretched(self, of_keys: torch.Tensor) -> torch.Tensor:
        """The encoder that this codec uses, made of that of the coder of its keys."""
        return of_keys if self.key_stretch == 1 else of_keys * self.key_stretch

    def encode_into(
        self,
        pools: tuple[PackedVectors, PackedVectors],
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        tools: CodingTools = NO_TOOLS,
    ) -> None:
        """Code keys and values straight into storage, some at a time where that takes copies.

        Args:
            pools: Storage of keys and of values; see `kernels.encode_into`.
            slots: Place of each token in both, -1 for none. [H_kv, T].
            keys: [H_kv, T, D] as the model made them.
            values: [H_kv, T, D_v].
            positions: Token indices. [T] or [H_kv, T].
            tools: What was found before.
        """
        # once for all parts: a GPU takes longer to find them than to code a part
        of_keys = self.stretched(self.keys.encoder) if tools.of_keys is None else tools.of_keys
        of_values = self.values.encoder if tools.of_values is None else tools.of_values
        turned = (self.rotary, self.pairing, of_keys, tools.is_bad)
        plain = (None, Pairing.NONE, of_values, tools.is_bad)
        num_heads, num_tokens, dim = keys.shape
        at_once = max(PAGE_SIZE, CODED_AT_ONCE // (num_heads * dim))
        if codes_in_place(keys.device, self.rotary):
            at_once = num_tokens
        for first in range(0, num_tokens, at_once):
            part = slice(first, first + at_once)
            own = (slots[:, part], positions[..., part])
            encode_into(pools[0], own[0], self.keys, keys[:, part], own[1], *turned)
            encode_into(pools[1], own[0], self.values, values[:, part], own[1], *plain)

    def decode(
        self,
        keys: PackedVectors,
        values: PackedVectors,
        positions: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rebuild what `encode_into` coded: keys as large as they were stretched to."""
        bare = self.keys.decode(keys, torch.float32, positions)
        turned = self._put_on(bare, positions).to(dtype)
        return turned, self.values.decode(values, dtype, positions)

    def narrow(
        self, keys: torch.Tensor, values: torch.Tensor, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hold exact vectors in 16 bits; keys less their mean, which may be far larger than they.

        Args:
            keys: [H_kv, T, D] as the model made them.
            values: [H_kv, T, D_v].
            first: Index of the first token.
        """
        if self.keys is not None:
            keys = _to_float16(keys.float() - self.mean_at(keys, first))
        return to_16_bit(keys), to_16_bit(values)

    def widen(
        self, keys: torch.Tensor, values: torch.Tensor, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Undo `narrow`; keys come in float32."""
        if self.keys is not None:
            keys = keys.float() + self.mean_at(keys, first)
        return keys, values

    def fitted(
        self, keys: torch.Tensor, first: int, queries: torch.Tensor | None, num_seen: int
    ) -> LayerCodec:
        """Fit the keys' basis to keys and queries of the text itself.

        Args:
            keys: Exact keys as the model made them. [H_kv, T, D].
            first: Index of the first of them.
            queries: Newest queries, up to the last token seen, [H, Q, D]; None if not known.
            num_seen: Tokens seen.
        """
        bare = self._take_off(keys.float(), _positions(keys, first))
        mean = bare.mean(dim=1)
        centred = bare - mean.unsqueeze(1)
        dim, num_tokens = bare.shape[-1], bare.shape[1]
        covariance = centred.mT @ centred / num_tokens
        # few tokens do not show every direction: those to come get their share of the mean
        share = dim / (dim + num_tokens) / 8
        energy = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None]
        unit = torch.eye(dim, device=keys.device)
        covariance = (1 - share) * covariance + share * energy * unit
        cost = unit.expand_as(covariance)
        if queries is not None:
            cost = self._cost_of(queries, num_seen, keys.shape[0])
        basis = fit_key_basis(mean, covariance, cost)
        widths = share_bits([basis.variances], self.key_bits)[0]
        return replace(self, keys=key_quantizer(basis, widths).to(keys.device))

    def _cost_of(self, queries: torch.Tensor, num_seen: int, num_kv_heads: int) -> torch.Tensor:
        """Mean outer product of queries as keys before their rotation meet them."""
        num_queries = queries.shape[1]
        own = torch.arange(num_seen - num_queries, num_seen, device=queries.device)
        cost = torch.zeros(())
        for share in _READ_FROM:
            positions = (own * share).long()
            bare = queries.float()
            if self.rotary is not None:
                bare = self.rotary.take_off(bare, positions, self.pairing)
            rows = bare.reshape(num_kv_heads, -1, bare.shape[-1])
            cost = cost + rows.mT @ rows / rows.shape[1] / len(_READ_FROM)
        return cost

    def mean_at(self, keys: torch.Tensor, first: int) -> torch.Tensor:
        """What `narrow` takes off keys [H_kv, T, D] from token `first` on: their mean, rotated."""
        mean = self.keys.mean.expand(*keys.shape)
        return self.rotary.put_on_run(mean, first, self.pairing) if self.rotary else mean

    def _take_off(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.rotary.take_off(keys, positions, self.pairing) if self.rotary else keys

    def _put_on(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.rotary.put_on(keys, positions, self.pairing) if self.rotary else keys


def tools_for(codecs: Sequence[LayerCodec]) -> list[CodingTools]:
    """What coding with each codec takes; those on one device note bad vectors in one place.

    Args:
        codecs: With coders for keys.
    """
    bare = encoders_of([codec.keys for codec in codecs])
    of_keys = [codec.stretched(encoder) for codec, encoder in zip(codecs, bare, strict=True)]
    of_values = encoders_of([codec.values for codec in codecs])
    notes = {
        device: torch.zeros(1, dtype=torch.int32, device=device)
        for device in {encoder.device for encoder in of_keys}
    }
    return [
        CodingTools(*encoders, notes[encoders[0].device])
        for encoders in zip(of_keys, of_values, strict=True)
    ]


def check_coded(tools: Iterable[CodingTools]) -> None:
    """Wait for what was coded.

    Raises:
        ValueError: Some vectors could not be.
    """
    notes = {id(one.is_bad): one.is_bad for one in tools if one.is_bad is not None}.values()
    if any(note.item() for note in notes):
        raise ValueError("keys or values hold NaN or infinite numbers, which cannot be coded.")


def to_16_bit(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in 16 bits: float32 as float16, narrower ones as they are."""
    return tensor if tensor.dtype != torch.float32 else _to_float16(tensor)


def _to_float16(tensor: torch.Tensor) -> torch.Tensor:
    # an infinite key would poison every later token: the largest float16 stands in for it
    largest = torch.finfo(torch.float16).max
    return tensor.clamp(-largest, largest).to(torch.float16)


def _positions(keys: torch.Tensor, first: int) -> torch.Tensor:
    return torch.arange(first, first + keys.shape[1], device=keys.device)
