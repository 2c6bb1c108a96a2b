"""Compressed caches as files: safetensors for the bytes, JSON in its header for the rest.

Knows the format and whom a file belongs to. Must not know what was compressed or why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nexusquant.cache.file.checked import (
    CheckedFile,
    FileDamageError,
    open_checked,
    write_checked,
)
from nexusquant.cache.hf_compat import (
    CacheLayerMixin,
    head_counts,
    head_dims,
    rope_settings,
)
from nexusquant.cache.hf_devices import named_weights
from nexusquant.cache.kept import KeptTokens, Segment
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.saved_coders import KEY_TENSORS, coders_from_tensors, coders_to_tensors
from nexusquant.config import CompressionConfig, EvictionConfig, QuantConfig
from nexusquant.errors import CacheStateError
from nexusquant.lattice import E8Quantizer, PackedVectors, Rotary, RotarySegment

FORMAT_VERSION = 8
_KIND = "nexusquant"
_SAMPLES_PER_TENSOR = 32
_EXACT_TENSORS = ("sink_keys", "sink_values", "recent_keys", "recent_values")
_EXACT_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_PAGE_TENSORS = ("key_codes", "key_scales", "value_codes", "value_scales", "page_table")
_LAYER_TENSORS = (*_EXACT_TENSORS, *_PAGE_TENSORS, *KEY_TENSORS, "kept_bits")


@dataclass(frozen=True)
class SavedFor:
    """The model that a file must belong to.

    Args:
        fingerprint: Of `fingerprint`.
        heads: Heads of keys and values, and values in one key, of every layer.
    """

    fingerprint: str
    heads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, model: PreTrainedModel, rope_label: str = "") -> SavedFor:
        """What a file must say to belong to `model` with positions scaled as `rope_label` says."""
        counts = (num_kv_heads for _, num_kv_heads in head_counts(model.config))
        heads = tuple(zip(counts, head_dims(model.config), strict=True))
        return cls(fingerprint(model) + rope_label, heads)


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
    model: SavedFor,
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
        tensors.update({f"{index}.{name}": tensor for name, tensor in named.items()})
        records.append(record)
    header = {
        "format_version": FORMAT_VERSION,
        "model": model.fingerprint,
        "config": asdict(config),
        "layers": records,
        "rope_starts": [],
    }
    for number, segment in enumerate(rotary.segments if rotary else ()):
        header["rope_starts"].append(segment.first)
        tensors[f"rope.{number}"] = segment.frequencies
    write_checked(path, _KIND, tensors, header)


def restore(
    layers: Sequence[CacheLayerMixin],
    config: CompressionConfig,
    model: SavedFor,
    rotary: Rotary | None,
    path: Path,
    devices: Sequence[torch.device],
) -> None:
    """Fill empty layers from `path`, with the tensors of each on its device.

    Raises:
        CacheStateError: Another model, config or format version, or a damaged file; the layers
            are empty then.
    """
    with _opened(path) as file:
        header = file.header
        if header["model"] != model.fingerprint:
            raise CacheStateError(
                f"{path.name} was made with another model; read the text again with this one."
            )
        # how a text is read is not what is stored of it
        read_alike = replace(_config_from(header), exact_prefill_tokens=config.exact_prefill_tokens)
        if read_alike != config:
            raise CacheStateError(
                f"{path.name} was compressed with other settings; use those, or read the text "
                "again."
            )
        try:
            _fill(layers, model, rotary, file, devices)
        except BaseException:
            for layer in layers:
                layer.reset()
            raise


def read_config(path: Path) -> CompressionConfig:
    """What a saved cache was compressed with.

    Raises:
        CacheStateError: No cache file, of another format version, or damaged.
    """
    with _opened(path) as file:
        return _config_from(file.header)


@contextmanager
def _opened(path: Path) -> Iterator[CheckedFile]:
    """Whatever is wrong with the file, and with what it says, ends as one kind of error."""
    try:
        with open_checked(path, _KIND, FORMAT_VERSION) as file:
            if not file.header.keys() >= {"model", "config", "layers", "rope_starts"}:
                raise FileDamageError("a part of its header is missing")
            yield file
    except FileNotFoundError:
        raise CacheStateError(f"There is no saved cache at {path}.") from None
    except (
        OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError,
        RuntimeError,
    ) as error:  # fmt: skip
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CacheStateError(
            f"{path.name} is not a saved cache that can be opened ({why}); read the text again."
        ) from error


def _fill(
    layers: Sequence[CacheLayerMixin],
    model: SavedFor,
    rotary: Rotary | None,
    file: CheckedFile,
    devices: Sequence[torch.device],
) -> None:
    """Fill layers; raises ValueError where the file contradicts the model or itself."""
    records, value_coders = file.header["layers"], {}
    _check_names(file.names, len(layers))
    if len({_count(record["num_seen"]) for record in records}) > 1:
        raise ValueError("its layers have seen unlike many tokens")
    for index, (layer, record, device) in enumerate(zip(layers, records, devices, strict=True)):
        prefix = f"{index}."
        names = [name for name in file.names if name.startswith(prefix)]
        named = {name.removeprefix(prefix): file.tensor(name).to(device) for name in names}
        _layer_from_tensors(layer, named, record, model.heads[index], value_coders)
    if rotary is not None:
        num_seen = records[0]["num_seen"] if records else 0
        rotary.segments = _rope_segments(file, rotary, num_seen)
    for layer in layers:
        if layer.codec is not None:
            # what begins anew there codes values alike: a coder that nothing uses is memory too
            layer.blank_codec = replace(layer.blank_codec, values=layer.codec.values)


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
            f"The saved cache has settings that this program does not know ({error}); read the "
            "text again."
        ) from error


def _check_names(names: Sequence[str], num_layers: int) -> None:
    owners = {str(index) for index in range(num_layers)}
    for name in names:
        owner, _, what = name.partition(".")
        is_ours = owner in owners and what.partition(".")[0] in _LAYER_TENSORS
        if not is_ours and owner != "rope":
            raise ValueError(f"it has a tensor {name!r}")


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
    heads: tuple[int, int],
    value_coders: dict[tuple, E8Quantizer],
) -> None:
    """Fill an empty layer; raises ValueError where the file contradicts itself."""
    if record["num_seen"] == 0:
        return
    exact = tuple(named[name] for name in _EXACT_TENSORS)
    _check_exact(exact, heads)
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
        if layer.kept.num_tokens:
            raise ValueError("it counts coded tokens, and has none")
        return
    key_codes, key_scales, value_codes, value_scales, page_table = (
        named[name] for name in _PAGE_TENSORS
    )
    lengths = [_count(length) for length in record["page_lengths"]]
    keys, values = PackedVectors(key_codes, key_scales), PackedVectors(value_codes, value_scales)
    layer.pages.load(keys, values, page_table, lengths)
    # such a segment takes no room in the file, so its number alone could ask for any memory
    num_whole = sum(one.num_tokens for one in layer.kept.segments if one.bits is None)
    if num_whole > min(lengths, default=0):
        raise ValueError("it counts more kept tokens than it has")
    if layer.kept.mask(len(lengths), page_table.device).sum(dim=1).tolist() != lengths:
        raise ValueError("its page lengths are not those of its kept tokens")


def _rope_segments(file: CheckedFile, rotary: Rotary, num_seen: int) -> tuple[RotarySegment, ...]:
    starts = [_count(start) for start in file.header["rope_starts"]]
    tensors = [file.tensor(f"rope.{number}") for number in range(len(starts))]
    own = rotary.segments[0].frequencies
    for tensor in tensors:
        if tensor.shape != own.shape or not tensor.is_floating_point():
            raise ValueError("its rotation has the wrong shape")
        if not bool(tensor.isfinite().all()):
            raise ValueError("its rotation is not finite")
    if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] > num_seen:
        raise ValueError("its rotations do not follow one another")
    return tuple(map(RotarySegment, starts, tensors))


def _check_exact(exact: tuple[torch.Tensor, ...], heads: tuple[int, int]) -> None:
    """Sinks and newest tokens: as many heads as the model has, of its size, and finite."""
    num_kv_heads, head_dim = heads
    sink_keys, sink_values, recent_keys, recent_values = exact
    for one in exact:
        if one.dim() != 3 or one.shape[0] != num_kv_heads:
            raise ValueError("its exact vectors have the wrong shape")
        if one.dtype not in _EXACT_TYPES or not bool(one.isfinite().all()):
            raise ValueError("its exact vectors are not finite numbers")
    for keys, values in ((sink_keys, sink_values), (recent_keys, recent_values)):
        if keys.shape[1] != values.shape[1]:
            raise ValueError("it has not one value for each key")
        if keys.shape[2] != head_dim or values.shape[2] != sink_values.shape[2]:
            raise ValueError("its exact vectors have the wrong size")


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
