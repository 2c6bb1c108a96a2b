"""What is known of a model before it reads a text: how its keys vary and what errors cost.

Knows bases, pairings and costs. Must not know how they were measured, or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from nexusquant.cache import hf_compat
from nexusquant.cache.codec import LayerCodec
from nexusquant.cache.hf_devices import layer_devices
from nexusquant.cache.rotary import find_pairings, rotary_of
from nexusquant.config import QuantConfig
from nexusquant.lattice import (
    E8Quantizer,
    KeyBasis,
    Pairing,
    Rotary,
    key_quantizer,
    share_bits,
    share_even_bits,
)


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """Made once for a model, used by every cache of it.

    Args:
        pairings: How each layer rotates its keys.
        bases: The keys' basis of each layer; None for a layer that is not compressed.
        value_costs: What it costs a layer's heads, in the mean, to lose their values, in the unit
            of all layers' bases; None for a layer that is not compressed.
    """

    pairings: tuple[Pairing, ...]
    bases: tuple[KeyBasis | None, ...]
    value_costs: tuple[float | None, ...]


# coders of keys and widths of values by their bits: every chat begins with the same, and need not
# wait for them again
_made_for: WeakKeyDictionary[ModelProfile, dict[float, list[E8Quantizer]]] = WeakKeyDictionary()
_widths_for: WeakKeyDictionary[ModelProfile, dict[float, list[tuple[int, ...] | None]]] = (
    WeakKeyDictionary()
)


def compressible_layers(model: PreTrainedModel) -> list[int]:
    """Indices of the layers whose keys and values can be coded.

    Raises:
        UnsupportedModelError: The model cannot work with a compressed cache.
    """
    kinds, dims = hf_compat.default_layers(model.config), hf_compat.head_dims(model.config)
    return [
        index
        for index, (kind, dim) in enumerate(zip(kinds, dims, strict=True))
        if not isinstance(kind, hf_compat.SlidingLayer) and dim % 8 == 0
    ]


def make_codecs(
    model: PreTrainedModel,
    quant: QuantConfig | None,
    profile: ModelProfile | None,
    devices: Sequence[torch.device] | None = None,
) -> tuple[list[LayerCodec | None], Rotary | None]:
    """Make the coders of every layer.

    Args:
        model: The model.
        quant: Bits; None for a cache that keeps everything exact.
        profile: Its profile; None has every layer fit its keys to the text.
        devices: Where each layer computes; None: it is looked up.

    Returns:
        Coders, None where vectors stay exact, and the rotation that they share.
    """
    dims = hf_compat.head_dims(model.config)
    if quant is None:
        return [None] * len(dims), None
    rotary, devices = rotary_of(model), devices or layer_devices(model)
    pairings = profile.pairings if profile else find_pairings(model)
    keys = _key_quantizers(devices, quant, profile) if profile else [None] * len(dims)
    values = _value_quantizers(dims, devices, quant, profile)
    codecs = [
        LayerCodec(of_values, rotary, pairing, of_keys, quant.key_bits, quant.key_stretch)
        if of_values is not None and (profile is None or of_keys is not None)
        else None
        for of_values, pairing, of_keys in zip(values, pairings, keys, strict=True)
    ]
    return codecs, rotary if any(codecs) else None


def _key_quantizers(
    devices: Sequence[torch.device], quant: QuantConfig, profile: ModelProfile
) -> list[E8Quantizer | None]:
    made = _made_for.setdefault(profile, {})
    if quant.key_bits not in made:
        bases = [basis for basis in profile.bases if basis is not None]
        widths = share_bits([basis.variances for basis in bases], quant.key_bits)
        made[quant.key_bits] = list(map(key_quantizer, bases, widths))
    quantizers = iter(made[quant.key_bits])
    return [
        None if basis is None else next(quantizers).to(device)
        for basis, device in zip(profile.bases, devices, strict=True)
    ]


def _value_quantizers(
    dims: Sequence[int],
    devices: Sequence[torch.device],
    quant: QuantConfig,
    profile: ModelProfile | None,
) -> list[E8Quantizer | None]:
    bits = [quant.value_bits if dim % 8 == 0 else None for dim in dims]
    if profile is not None:
        bits = _value_widths(profile, quant.value_bits)
    kinds = list(zip(dims, bits, devices, strict=True))
    # layers of a device share their coders of values: a rotation is memory too
    made = {
        (dim, of_kind, device): E8Quantizer.create(dim, of_kind, quant.rotation_seed, device)
        for dim, of_kind, device in set(kinds)
        if of_kind is not None
    }
    return [made.get(kind) for kind in kinds]


def _value_widths(profile: ModelProfile, bits: float) -> list[tuple[int, ...] | None]:
    known = _widths_for.setdefault(profile, {})
    if bits in known:
        return known[bits]
    coded = [
        torch.full_like(basis.variances, cost / basis.variances.shape[-1])
        for basis, cost in zip(profile.bases, profile.value_costs, strict=True)
        if basis is not None
    ]
    widths = iter(share_even_bits(coded, bits))
    known[bits] = [None if basis is None else next(widths) for basis in profile.bases]
    return known[bits]


def stored_tensors(codec: LayerCodec | None) -> tuple[torch.Tensor | None, ...]:
    """Every tensor that a codec holds."""
    if codec is None:
        return ()
    coders = [coder for coder in (codec.keys, codec.values) if coder is not None]
    tensors = [
        t for coder in coders for t in (coder.basis, coder.column_units, coder.gains, coder.mean)
    ]
    if codec.rotary is not None:
        tensors += [segment.frequencies for segment in codec.rotary.segments]
    return tuple(tensors)
