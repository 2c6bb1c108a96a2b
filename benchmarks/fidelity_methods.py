"""What `fidelity.py` compares: our settings and the peers', as named methods.

Knows the public API of nexusquant and the peers. Must not know how fidelity is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fidelity_protocol import ExactReading, Method, hold_prefix
from peers import (
    TRANSFORMERS_SETTINGS,
    CodedLayer,
    HadamardE8,
    SixteenBitLayer,
    TurboQuant,
    transformers_layers,
)
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

import nexusquant

OUR_FAMILY, EVICTING_FAMILY = "Nexusquant", "Nexusquant, evicting"
EVICTING_PRESETS = ("high", "balanced", "max")
REFERENCE = "DynamicCache in 16 bits"
"""The method whose measured bytes must be exactly those of 16-bit keys and values."""

OUR_BITS = ((3.25, 3.25), (2, 2), (1.3, 1.75), (1, 1))
PEER_BITS = ((4, 4), (4, 3), (4, 2), (3, 3), (3, 2), (2, 2), (2, 1), (1, 1))
_SEED = 0
# where codes are compared, all have as many exact tokens; presets have their own
_EXACT = {"num_sink_tokens": 16, "recent_window": 16}


def all_methods(profile: Callable[[], object], *, keep_new_exact: bool = False) -> list[Method]:
    """Every method.

    Args:
        profile: Called when one of ours needs the model's profile.
        keep_new_exact: Code the prefix only; what comes after it stays as the model made it.
    """
    methods = [
        Method(REFERENCE, "transformers DynamicCache", _sixteen_bit_cache),
        *_our_methods(profile),
        *_coded_methods("TurboQuant", TurboQuant),
        *_coded_methods("Hadamard E8", HadamardE8),
        *_transformers_methods(),
    ]
    return [_with_exact_end(method) for method in methods] if keep_new_exact else methods


def _with_exact_end(method: Method) -> Method:
    def make(model: PreTrainedModel, reading: ExactReading) -> Cache:
        cache = method.make(model, reading)
        for layer in cache.layers:
            if isinstance(layer, (CodedLayer, SixteenBitLayer)):
                layer.keep_new_exact()
        return cache

    # without being settled, our cache leaves the new span open, and exact
    return Method(method.name, method.family, make)


def _our_methods(profile: Callable[[], object]) -> Iterator[Method]:
    settings = {}
    for key_bits, value_bits in OUR_BITS:
        quant = nexusquant.QuantConfig(key_bits=key_bits, value_bits=value_bits)
        name = _with_bits(OUR_FAMILY, key_bits, value_bits)
        settings[name] = nexusquant.CompressionConfig(quant=quant, **_EXACT)
    for preset in EVICTING_PRESETS:
        settings[f"{OUR_FAMILY} preset {preset}"] = nexusquant.PRESETS[preset]
    for name, config in settings.items():

        def make(
            model: PreTrainedModel,
            reading: ExactReading,
            config: nexusquant.CompressionConfig = config,
        ) -> Cache:
            return nexusquant.prefill(model, reading.prefix_ids, config, profile=profile())

        family = OUR_FAMILY if config.eviction is None else EVICTING_FAMILY
        # a chunk that is closed is coded, like the peers': nothing but the windows stays exact
        yield Method(name, family, make, nexusquant.CompressedCache.finish_prefill)


def _sixteen_bit_cache(model: PreTrainedModel, reading: ExactReading) -> Cache:
    return hold_prefix([SixteenBitLayer(DynamicLayer()) for _ in reading.prefix], reading)


def _coded_methods(family: str, codec: type[TurboQuant | HadamardE8]) -> Iterator[Method]:
    for key_bits, value_bits in PEER_BITS:

        def make(
            model: PreTrainedModel,
            reading: ExactReading,
            key_bits: int = key_bits,
            value_bits: int = value_bits,
        ) -> Cache:
            key, value = reading.prefix[0]
            # layers share their coders: a rotation is memory too
            keys = codec(key.shape[-1], key_bits, _SEED, key.device)
            values = codec(value.shape[-1], value_bits, _SEED + 1, value.device)
            layers = [CodedLayer(keys, values, **_EXACT) for _ in reading.prefix]
            return hold_prefix(layers, reading)

        yield Method(_with_bits(family, key_bits, value_bits), family, make)


def _transformers_methods() -> Iterator[Method]:
    for name, (backend, options) in TRANSFORMERS_SETTINGS.items():

        def make(
            model: PreTrainedModel,
            reading: ExactReading,
            backend: str = backend,
            options: dict = options,
        ) -> Cache:
            return hold_prefix(transformers_layers(model.config, backend, options), reading)

        yield Method(name, f"transformers {backend}", make)


def _with_bits(family: str, key_bits: float, value_bits: float) -> str:
    return f"{family} K{key_bits:g} V{value_bits:g}"
