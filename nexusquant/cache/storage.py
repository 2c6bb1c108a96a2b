"""Compressed caches as files: safetensors for the bytes, JSON in its header for the rest.

Knows the format and whom a file belongs to. Must not know what was compressed or why.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from nexusquant.cache.hf_compat import CacheLayerMixin, rope_settings
from nexusquant.cache.hf_devices import named_weights
from nexusquant.cache.kept import KeptTokens, Segment
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.saved_coders import coders_from_tensors, coders_to_tensors
from nexusquant.config import CompressionConfig, EvictionConfig, QuantConfig
from nexusquant.errors import CacheStateError
from nexusquant.lattice import E8Quantizer, PackedVectors, Rotary, RotarySegment

FORMAT_VERSION = 7
_HEADER = "nexusquant"
_SAMPLES_PER_TENSOR = 32
_EXACT_TENSORS = ("sink_keys", "sink_values", "recent_keys", "recent_values")
_PAGE_TENSORS = ("key_codes", "key_scales", "value_codes", "value_scales", "page_table")


def fingerprint(model: PreTrainedModel) -> str:
    """A short name for a model's weights, type and RoPE: equal models, equal names.

    A few values of every weight are read, not all of them.
    """
    digest = hashlib.sha256(rope_settings(model).encode())
    samples = []
    for name, weight in named_weights(model):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        flat = weight.flatten()
        samples.append(flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)].float())
    # one transfer from each device: a GPU is asked once for all that follow one another on it
    for _, of_device in groupby(samples, lambda sample: sample.device):
        digest.update(torch.cat(list(of_device)).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def save(
    layers: Sequence[CacheLayerMixin],
    config: CompressionConfig,
    model_fingerprint: str,
    rotary: Rotary | None,
    path: Path,
) -> None:
    """Write layers to `path`, whole or not at all.

    Raises:
        CacheStateError: A layer that the format has no place for.
        OSError: The file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    records = []
    for index, layer in enumerate(layers):
        if not isinstance(layer, CompressedLayer):
            raise CacheStateError(
                "Caches of models with sliding-window layers cannot be saved yet."
            )
        named, record = _layer_to_tensors(layer)
        tensors.update({f"{index}.{name}": tensor.contiguous() for name, tensor in named.items()})
        records.append(record)
    header = {
        "format_version": FORMAT_VERSION,
        "model": model_fingerprint,
        "config": asdict(config),
        "layers": records,
        "rope_starts": [],
    }
    for number, segment in enumerate(rotary.segments if rotary else ()):
        header["rope_starts"].append(segment.first)
        tensors[f"rope.{number}"] = segment.frequencies.contiguous()
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, str(partial), metadata={_HEADER: json.dumps(header)})
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def restore(
    layers: Sequence[CacheLayerMixin],
    config: CompressionConfig,
    model_fingerprint: str,
    rotary: Rotary | None,
    path: Path,
    devices: Sequence[torch.device],
) -> None:
    """Fill empty layers from `path`, with the tensors of each on its device.

    Raises:
        CacheStateError: Another model, config or format version, or a damaged file.
    """
    header = _read_header(path)
    if header["model"] != model_fingerprint:
        raise CacheStateError(
            f"{path.name} was made with another model; read the text again with this one."
        )
    # how a text is read is not what is stored of it
    read_alike = replace(_config_from(header), exact_prefill_tokens=config.exact_prefill_tokens)
    if read_alike != config:
        raise CacheStateError(
            f"{path.name} was compressed with other settings; use those, or read the text again."
        )
    value_coders: dict[tuple, E8Quantizer] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            records = zip(layers, header["layers"], devices, strict=True)
            for index, (layer, record, device) in enumerate(records):
                names = [name for name in file.keys() if name.startswith(f"{index}.")]  # noqa: SIM118
                # copies: the tensors that come are the file itself, mapped, and it may be replaced
                named = {
                    name.split(".", 1)[1]: file.get_tensor(name).to(device, copy=True)
                    for name in names
                }
                _layer_from_tensors(layer, named, record, value_coders)
            if rotary is not None:
                rotary.segments = _rope_segments(file, header["rope_starts"])
        for layer in layers:
            if layer.codec is not None:
                # what begins anew there codes values alike: a coder that nothing uses is memory too
                layer.blank_codec = replace(layer.blank_codec, values=layer.codec.values)
    except (SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
        for layer in layers:
            layer.reset()
        raise CacheStateError(f"{path.name} is damaged ({error}); read the text again.") from error


def read_config(path: Path) -> CompressionConfig:
    """What a saved cache was compressed with.

    Raises:
        CacheStateError: No cache file, or of another format version.
    """
    return _config_from(_read_header(path))


def _read_header(path: Path) -> dict:
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            version = header["format_version"]
    except FileNotFoundError:
        raise CacheStateError(f"There is no saved cache at {path}.") from None
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError, OSError) as error:
        raise CacheStateError(
            f"{path.name} is not a saved cache, or it is damaged ({error})."
        ) from error
    if version != FORMAT_VERSION:
        raise CacheStateError(
            f"{path.name} has format version {version}, this program reads version "
            f"{FORMAT_VERSION}; read the text again."
        )
    if not header.keys() >= {"model", "config", "layers", "rope_starts"}:
        raise CacheStateError(f"{path.name} is damaged (a part of its header is missing).")
    return header


def _config_from(header: dict) -> CompressionConfig:
    try:
        fields = dict(header["config"])
        quant, eviction = fields.pop("quant"), fields.pop("eviction")
        return CompressionConfig(
            quant=QuantConfig(**quant) if quant else None,
            eviction=EvictionConfig(**eviction) if eviction else None,
            **fields,
        )
    except (TypeError, ValueError, KeyError) as error:
        raise CacheStateError(
            f"The saved cache has settings that this program does not know: {error}"
        ) from error


def _layer_to_tensors(layer: CompressedLayer) -> tuple[dict[str, torch.Tensor], dict]:
    record = {"num_seen": layer.num_seen, "page_lengths": [], "segments": [], "key_widths": []}
    if not layer.is_initialized:
        return {}, record
    named = dict(zip(_EXACT_TENSORS, layer.sinks + layer.recent, strict=True))
    if layer.pages is not None:
        # what was rewound does not belong into the file
        layer.pages.compact()
        pages = (*layer.pages.keys, *layer.pages.values, layer.pages.page_table)
        named.update(zip(_PAGE_TENSORS, pages, strict=True))
        record["page_lengths"] = list(layer.pages.lengths)
    if layer.codec is not None and layer.codec.keys is not None:
        tensors, widths = coders_to_tensors(layer.codec)
        named.update(tensors)
        record.update(widths)
    for number, segment in enumerate(layer.kept.segments):
        record["segments"].append(segment.num_tokens)
        if segment.bits is not None:
            named[f"kept_bits.{number}"] = segment.bits
    return named, record


def _layer_from_tensors(
    layer: CompressedLayer,
    named: dict[str, torch.Tensor],
    record: dict,
    value_coders: dict[tuple, E8Quantizer],
) -> None:
    """Fill an empty layer; raises ValueError where the file contradicts itself."""
    if record["num_seen"] == 0:
        return
    exact = tuple(named[name] for name in _EXACT_TENSORS)
    _check_exact(exact)
    if record["key_widths"]:
        if layer.codec is None:
            raise ValueError("it has coders for a layer that is not coded")
        seed = layer.config.quant.rotation_seed
        layer.codec = coders_from_tensors(layer.codec, seed, named, record, value_coders)
    layer.lazy_initialization(exact[0].unsqueeze(0), exact[1].unsqueeze(0))
    layer.sinks, layer.recent = exact[:2], exact[2:]
    layer.num_seen = _count(record["num_seen"])
    layer.kept = _kept_from(named, record["segments"], exact[0].shape[0])
    if layer.kept.num_tokens + layer.sinks[0].shape[1] + layer.num_recent != layer.num_seen:
        raise ValueError("its token counts contradict each other")
    if layer.pages is None:
        return
    key_codes, key_scales, value_codes, value_scales, page_table = (
        named[name] for name in _PAGE_TENSORS
    )
    lengths = [_count(length) for length in record["page_lengths"]]
    keys, values = PackedVectors(key_codes, key_scales), PackedVectors(value_codes, value_scales)
    layer.pages.load(keys, values, page_table, lengths)
    if layer.kept.mask(len(lengths), page_table.device).sum(dim=1).tolist() != lengths:
        raise ValueError("its page lengths are not those of its kept tokens")


def _rope_segments(file: safe_open, starts: Sequence[int]) -> tuple[RotarySegment, ...]:
    tensors = [file.get_tensor(f"rope.{number}").clone() for number in range(len(starts))]
    if not tensors or any(
        tensor.dim() != 1 or not tensor.is_floating_point() for tensor in tensors
    ):
        raise ValueError("its rotation has the wrong shape")
    return tuple(map(RotarySegment, map(_count, starts), tensors))


def _check_exact(exact: tuple[torch.Tensor, ...]) -> None:
    sink_keys, sink_values, recent_keys, recent_values = exact
    for one, other in (
        (sink_keys, sink_values),
        (recent_keys, recent_values),
        (sink_keys, recent_keys),
    ):
        if one.dim() != 3 or other.dim() != 3 or one.shape[0] != other.shape[0]:
            raise ValueError("its exact vectors have the wrong shape")
    for keys, values in ((sink_keys, sink_values), (recent_keys, recent_values)):
        if keys.shape[1] != values.shape[1]:
            raise ValueError("it has not one value for each key")
    for sinks, recent in ((sink_keys, recent_keys), (sink_values, recent_values)):
        if sinks.shape[2] != recent.shape[2] or not (
            sinks.is_floating_point() and recent.is_floating_point()
        ):
            raise ValueError("its exact vectors have the wrong size or type")


def _kept_from(
    named: dict[str, torch.Tensor], counts: Sequence[int], num_kv_heads: int
) -> KeptTokens:
    segments = []
    for number, count in enumerate(map(_count, counts)):
        bits = named.get(f"kept_bits.{number}")
        shape = (num_kv_heads, -(-count // 8))
        if bits is not None and (bits.shape != shape or bits.dtype != torch.uint8):
            raise ValueError("its record of kept tokens has the wrong shape")
        segments.append(Segment(count, bits))
    return KeptTokens(tuple(segments))


def _count(number: object) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"it counts {number!r} tokens")
    return number
