"""A name or folder to a model that can generate: device, type, tokenizer, context length.

Knows transformers' loading. Must not know how caches work, or threads. Loads safetensors only and
never runs code that came with a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from nexusquant.cache import (
    ModelProfile,
    head_dims,
    layer_devices,
    scalings_for,
    supported_layers,
)
from nexusquant.config import RopeScaling
from nexusquant.engine.chat_template import ChatTemplate
from nexusquant.engine.decode_graph import RecordingTrial
from nexusquant.engine.devices import choose_device, devices_of, kernel_notes
from nexusquant.engine.memory import MemoryReading, read_memory
from nexusquant.engine.models import (
    check_config,
    check_has_tokenizer,
    check_tokenizer,
    check_weights,
    printable,
)
from nexusquant.engine.placement import Card, Placement, place_weights
from nexusquant.engine.quantized_checkpoints import check_quantizer, quant_method, quantizer_notes
from nexusquant.engine.weights import Precision, count_weights
from nexusquant.errors import NexusquantError, OutOfMemoryError, UnsupportedModelError

_UNLIMITED_CONTEXT = 1_000_000
DTYPES = tuple(map(str, Precision))


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate.

    Args:
        name: What to call it on screen.
        model: In evaluation mode, on `device`.
        tokenizer: Its tokenizer.
        context_length: Most tokens it was made for.
        end_ids: Tokens that end an answer.
        device: Where it runs; where there are several, the one that tokens go to first.
        notes: What is not as it was asked for, in sentences.
        profile: How its keys are coded; None has every text fit them anew.
        other_devices: Where its later layers run, if not on `device`.
        trial: Whether its steps are to be recorded, and can be, once an answer tried.
        chat_template: How chats are written for it; None makes that of its tokenizer.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    end_ids: frozenset[int]
    device: torch.device
    notes: tuple[str, ...] = ()
    profile: ModelProfile | None = None
    other_devices: tuple[torch.device, ...] = ()
    trial: RecordingTrial = field(default_factory=lambda: RecordingTrial(is_wanted=False))
    chat_template: ChatTemplate = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.chat_template is None:
            made = ChatTemplate(self.tokenizer, self.name)
            object.__setattr__(self, "chat_template", made)

    def memory(self) -> MemoryReading:
        """Memory of the devices that it runs on."""
        return read_memory(self.device, *self.other_devices)

    def scalings_for(self, num_tokens: int) -> tuple[RopeScaling, ...]:
        """Scalings of positions that make room for so many tokens and an answer, best first."""
        return scalings_for(self.model.config, num_tokens + self.context_length // 8)


def load_model(
    source: str | Path, device: str = "auto", dtype: str = "auto", *, offload: bool = False
) -> LoadedModel:
    """Load a causal model.

    Args:
        source: A Hugging Face id, or a local folder in that format.
        device: "auto" takes GPUs that work, else the CPU; or "cpu", "cuda".
        dtype: "auto" takes the checkpoint's type on a GPU, float32 on a CPU; or one of `DTYPES`.
        offload: Let layers for which GPUs are too small wait in the computer's memory, which is
            slow, instead of refusing the model.

    Raises:
        ValueError: An unknown device or dtype.
        UnsupportedModelError: It cannot be loaded; the message says why.
        OutOfMemoryError: It does not fit on the device; where that can be told, nothing was read.
    """
    target, notes = choose_device(device)
    options, is_local = _dtype_options(dtype), Path(source).is_dir()
    name = Path(source).name if is_local else str(source)
    with _told(source):
        config, placement = _inspect(source, target, dtype, offload)
        quantized_by = quant_method(config)
        tokenizer = _tokenizer(source)
        chat_template = ChatTemplate(tokenizer, name)
        # before the weights: a template that cannot be used is told at once
        template_ends = chat_template.end_ids
        options = options or _checkpoint_dtype(config, target)
        model = _weights(source, config, {"device_map": placement.device_map, **options})
        end_ids = _end_ids(model, tokenizer) | template_ends
    devices = tuple(dict.fromkeys(layer_devices(model)))
    notes += (*placement.notes, *quantizer_notes(quantized_by, model))
    return LoadedModel(
        name,
        model,
        tokenizer,
        _context_length(config),
        end_ids,
        devices[0],
        (*notes, *_kernel_notes(devices, config)),
        other_devices=devices[1:],
        chat_template=chat_template,
    )


def check_loadable(
    source: str | Path,
    device: str,
    dtype: str,
    *,
    offload: bool = False,
    freed_bytes: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Look at a model's config before its weights are fetched: can it work here, does it fit?

    Args:
        source: A folder with its config at least.
        device: See `load_model`.
        dtype: See `load_model`.
        offload: See `load_model`.
        freed_bytes: What will be free of each device besides, as the present model goes.

    Raises:
        UnsupportedModelError: It cannot be loaded; the message says why.
        OutOfMemoryError: It does not fit; the numbers are named.
    """
    _dtype_options(dtype)
    with _told(source):
        _inspect(source, choose_device(device)[0], dtype, offload, freed_bytes)
        if Path(source).is_dir():
            check_tokenizer(Path(source))


@contextmanager
def _told(source: str | Path, what: str = "") -> Iterator[None]:
    """Turn what a stranger's files make transformers and tokenizers raise into a sentence.

    What these raise has no limits, down to panics of Rust, which are no `Exception`.
    """
    try:
        yield
    except NexusquantError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"{source} does not fit on this device. Choose a smaller model."
        ) from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UnsupportedModelError(_explain(f"{what}{source}", error)) from error


def _inspect(
    source: str | Path,
    target: torch.device,
    dtype: str,
    offload: bool,
    freed_bytes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[PreTrainedConfig, Placement]:
    """What a model's config says, before gigabytes are read for nothing."""
    is_local = Path(source).is_dir()
    if is_local:
        check_config(Path(source))
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=is_local)
    supported_layers(config)
    check_quantizer(str(source), config, dtype)
    if target.type == "cpu":
        return config, Placement({"": target})
    cards = [
        Card(device, read_memory(device).after_freeing(freed_bytes.get(str(device), 0)))
        for device in devices_of(target)
    ]
    placement = place_weights(
        str(source),
        config,
        dtype,
        cards,
        offload=offload,
        free_ram_bytes=read_memory(torch.device("cpu")).device_free_bytes,
    )
    return config, placement


def _tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    is_local = Path(source).is_dir()
    if is_local:
        check_tokenizer(Path(source))
    with _told(source, "The tokenizer of "):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                source, trust_remote_code=False, local_files_only=is_local
            )
        except Exception:
            # that there is none says more than what its absence made somebody raise
            if is_local:
                check_has_tokenizer(Path(source))
            raise
    if is_local and isinstance(tokenizer, PreTrainedTokenizerBase):
        check_has_tokenizer(Path(source))
    return tokenizer


def _weights(
    source: str | Path, config: PreTrainedConfig, options: Mapping[str, object]
) -> PreTrainedModel:
    """The model with its weights, none of them pickled and none drawn at random."""
    is_local, is_quantized = Path(source).is_dir(), quant_method(config) is not None
    if is_local:
        _check_weights(Path(source), config)
    model, found = AutoModelForCausalLM.from_pretrained(
        source,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=is_local,
        output_loading_info=True,
        **options,
    )
    if not is_quantized:
        _check_nothing_is_missing(source, found["missing_keys"])
    return model.eval()


def _check_weights(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse damaged weights, and a config that asks for more than they hold: that is memory."""
    files = check_weights(folder)
    if quant_method(config) is not None:
        return
    wanted = count_weights(config).num_parameters
    if files.num_values < wanted:
        raise UnsupportedModelError(
            f"The weights in {folder} ({', '.join(files.names[:3])}) hold {files.num_values:,} "
            f"numbers, and config.json describes a model of {wanted:,}. One of them belongs to "
            "another model, or a file is missing: fetch the model again."
        )


def _check_nothing_is_missing(source: str | Path, missing: Collection[str]) -> None:
    """Refuse weights that transformers would draw at random, which only its log would tell."""
    if missing:
        raise UnsupportedModelError(
            f"The weights of {source} lack {len(missing)} that its config asks for, "
            f"{min(missing)} among them. Fetch the model again."
        )


def _dtype_options(dtype: str) -> dict[str, object] | None:
    """What `from_pretrained` is to be told; None where the checkpoint decides."""
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose auto or one of {', '.join(DTYPES)}.")
    return Precision(dtype).load_options()


def _checkpoint_dtype(config: PreTrainedConfig, target: torch.device) -> dict[str, object]:
    is_quantized = getattr(config, "quantization_config", None) is not None
    return {"dtype": torch.float32 if target.type == "cpu" and not is_quantized else "auto"}


def _kernel_notes(devices: Sequence[torch.device], config: PreTrainedConfig) -> Iterator[str]:
    found = (kernel_notes(device, max(head_dims(config))) for device in devices)
    return iter(dict.fromkeys(note for notes in found for note in notes))


def _context_length(config: PreTrainedConfig) -> int:
    length = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(length or _UNLIMITED_CONTEXT)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def _explain(what: str, error: BaseException) -> str:
    # the second line of some errors says what was wrong with the entry that the first one names
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    reason = printable(" ".join(lines[:2]), 300) if lines else type(error).__name__
    return (
        f"{what} could not be loaded: {reason.rstrip('.: ')}. "
        "Give a Hugging Face id or a local folder with safetensors weights and a tokenizer."
    )
