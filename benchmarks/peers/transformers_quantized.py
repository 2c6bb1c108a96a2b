"""The quantized caches that transformers itself has, in every setting worth trying.

Reference: `transformers.QuantizedCache` of transformers 5.23 (after KIVI, arXiv 2402.02750), with
the backends optimum-quanto (https://github.com/huggingface/optimum-quanto), HQQ
(https://github.com/dropbox/hqq) and its own fp8. It codes the whole prompt at once, keeps new
tokens exact until `residual_length` of them have come, and then codes everything anew.

What an axis means for keys [1, H_kv, T, D] was read in the backends: quanto groups consecutive
values of a vector with axis 0 (per token) and one channel of consecutive tokens with axis -1 (per
channel, as KIVI wants it for keys); HQQ groups consecutive values of a vector with axis 1, and
with axis 0 one channel of tokens that lie far apart, heads mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from transformers import PreTrainedConfig, QuantizedCache
from transformers.cache_utils import CacheLayerMixin

from peers.sixteen_bit import SixteenBitLayer

_QUANTO_AXES = {"token": 0, "channel": -1}
_HQQ_AXES = {"token": 1, "channel": 0}
_DEFAULTS = {"q_group_size": 64, "residual_length": 128}


def transformers_layers(
    config: PreTrainedConfig, backend: str, options: Mapping[str, int]
) -> list[CacheLayerMixin]:
    """Layers of a `QuantizedCache` that hold 16-bit scales and exact tokens.

    Args:
        config: Of the model.
        backend: "quanto", "hqq" or "fp8".
        options: Further arguments of `QuantizedCache`.

    Raises:
        ImportError: The backend is not installed.
    """
    cache = QuantizedCache(backend, config=config, **options)
    return [SixteenBitLayer(layer) for layer in cache.layers]


def _named(backend: str, nbits: int, keys: str, values: str, **changes: int) -> tuple:
    axes = _QUANTO_AXES if backend == "quanto" else _HQQ_AXES
    options = {"nbits": nbits, "axis_key": axes[keys], "axis_value": axes[values]}
    options |= _DEFAULTS | changes
    name = (
        f"{backend} {nbits}-bit, keys per {keys}, values per {values}, "
        f"group {options['q_group_size']}, residual {options['residual_length']}"
    )
    return name, (backend, options)


def _settings() -> dict[str, tuple[str, dict[str, int]]]:
    pairs = (("token", "token"), ("channel", "token"), ("channel", "channel"))
    found = [("fp8", ("fp8", {}))]
    for nbits in (4, 2):
        for keys, values in pairs:
            found.append(_named("quanto", nbits, keys, values))
            found.append(_named("quanto", nbits, keys, values, residual_length=32))
        found.append(_named("quanto", nbits, "channel", "token", q_group_size=32))
    for nbits in (8, 4, 3, 2, 1):
        found.extend(_named("hqq", nbits, keys, values) for keys, values in pairs)
    for nbits in (4, 2):
        found.append(_named("hqq", nbits, "token", "token", residual_length=32))
        found.append(_named("hqq", nbits, "token", "token", q_group_size=32))
    return dict(found)


TRANSFORMERS_SETTINGS: Mapping[str, tuple[str, Mapping[str, int]]] = MappingProxyType(_settings())
"""Backend and arguments of every setting, by name."""
