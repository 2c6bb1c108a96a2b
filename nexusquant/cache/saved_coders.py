"""The coders of a layer in the file of a cache: what they are made of, and made of again.

Knows names of tensors and widths. Must not know the file, pages or what was coded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from nexusquant.cache.codec import LayerCodec
from nexusquant.lattice import MOST_KEY_BITS, MOST_VALUE_BITS, E8Quantizer, Pairing

KEY_TENSORS = ("key_basis", "key_column_units", "key_gains", "key_mean")
"""Names of what a coder of keys is made of."""


def coders_to_tensors(codec: LayerCodec) -> tuple[dict[str, torch.Tensor], dict]:
    """What a file holds of fitted coders: tensors, and what is none."""
    keys = codec.keys
    record = {
        "key_widths": list(keys.widths),
        "value_widths": list(codec.values.widths),
        "pairing": str(codec.pairing),
    }
    parts = (keys.basis, keys.column_units, keys.gains, keys.mean)
    return dict(zip(KEY_TENSORS, parts, strict=True)), record


def coders_from_tensors(
    codec: LayerCodec,
    seed: int,
    named: Mapping[str, torch.Tensor],
    record: Mapping[str, Sequence[int]],
    made: dict[tuple, E8Quantizer],
) -> LayerCodec:
    """A layer's coders as a file says.

    Args:
        codec: Those that the layer has without it.
        seed: Of the rotation of values.
        named: Tensors of the layer.
        record: See `coders_to_tensors`.
        made: Coders of values of the layers before; gets this layer's, which those after share.

    Raises:
        ValueError: What the file says is no coder.
    """
    own, widths = codec.values, _widths(record["value_widths"])
    if len(widths) != len(own.widths) or max(widths) > MOST_VALUE_BITS:
        raise ValueError(f"its values have the widths {widths}")
    device, pairing = own.basis.device, Pairing(record["pairing"])
    kind = (own.dim, widths, device)
    if kind not in made:
        is_own = widths == own.widths
        made[kind] = own if is_own else E8Quantizer.create(own.dim, widths, seed, device)
    keys = _key_coder(named, _widths(record["key_widths"]))
    return replace(codec, keys=keys, values=made[kind], pairing=pairing)


def _key_coder(named: Mapping[str, torch.Tensor], widths: tuple[int, ...]) -> E8Quantizer:
    if max(widths, default=0) > MOST_KEY_BITS:
        raise ValueError(f"its keys have the widths {widths}")
    num_kv_heads, _, dim = named["sink_keys"].shape
    expected = {
        "key_basis": ((num_kv_heads, dim, dim), torch.int8),
        "key_column_units": ((num_kv_heads, dim), torch.float32),
        "key_gains": ((num_kv_heads, dim // 8), torch.float32),
        "key_mean": ((num_kv_heads, 1, dim), torch.float32),
    }
    for name, (shape, dtype) in expected.items():
        if named[name].shape != shape or named[name].dtype != dtype:
            raise ValueError(f"its {name} has the wrong shape or type")
        if not bool(named[name].isfinite().all()):
            raise ValueError(f"its {name} is not finite")
    return E8Quantizer(widths, *(named[name] for name in KEY_TENSORS))


def _widths(listed: Sequence[int]) -> tuple[int, ...]:
    if not all(type(width) is int for width in listed):
        raise ValueError(f"its widths are {listed!r}")
    return tuple(listed)
