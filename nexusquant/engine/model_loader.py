"""A name or folder to a model that can generate: device, type, tokenizer, context length.

Knows transformers' loading. Must not know how caches work, or threads. Loads safetensors only and
never runs code that came with a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    decode_problem,
    head_dims,
    scalings_for,
    supported_layers,
    triton_problem,
)
from nexusquant.config import RopeScaling
from nexusquant.engine.memory import MemoryReading, read_memory
from nexusquant.engine.weights import Precision, count_weights
from nexusquant.errors import OutOfMemoryError, UnsupportedModelError

_UNLIMITED_CONTEXT = 1_000_000
DEVICES = ("auto", "cpu", "cuda")
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
        device: Where it runs.
        notes: What is not as it was asked for, in sentences.
        profile: How its keys are coded; None has every text fit them anew.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    end_ids: frozenset[int]
    device: torch.device
    notes: tuple[str, ...] = ()
    profile: ModelProfile | None = None

    def scalings_for(self, num_tokens: int) -> tuple[RopeScaling, ...]:
        """Scalings of positions that make room for so many tokens and an answer, best first."""
        return scalings_for(self.model.config, num_tokens + self.context_length // 8)


def load_model(source: str | Path, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a causal model.

    Args:
        source: A Hugging Face id, or a local folder in that format.
        device: "auto" takes a GPU that works, else the CPU; or "cpu", "cuda".
        dtype: "auto" takes the checkpoint's type on a GPU, float32 on a CPU; or one of `DTYPES`.

    Raises:
        ValueError: An unknown device or dtype.
        UnsupportedModelError: It cannot be loaded; the message says why.
        OutOfMemoryError: It does not fit on the device; where that can be told, nothing was read.
    """
    target, notes = choose_device(device)
    options = _dtype_options(dtype, target)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        # before gigabytes are read for nothing
        supported_layers(config)
        if target.type == "cuda":
            check_weights_fit(str(source), config, dtype, read_memory(target))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            device_map={"": target},
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{source} does not fit on this device. Choose a smaller model."
        ) from error
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UnsupportedModelError(_explain(source, error)) from error
    model.eval()
    name = Path(source).name if Path(source).is_dir() else str(source)
    notes += kernel_notes(target, max(head_dims(config)))
    return LoadedModel(
        name, model, tokenizer, _context_length(config), _end_ids(model, tokenizer), target, notes
    )


def choose_device(device: str) -> tuple[torch.device, tuple[str, ...]]:
    """Pick the device, and say when it is not the one a user would expect.

    Raises:
        ValueError: An unknown name, or CUDA asked for where there is none.
    """
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}; choose one of {', '.join(DEVICES)}.")
    if device == "cpu":
        return torch.device("cpu"), ()
    problem = _cuda_problem()
    if problem is None:
        return torch.device("cuda"), ()
    if device == "cuda":
        raise ValueError(
            f"The GPU cannot be used: {problem} Start with --device cpu, or mend that."
        )
    return torch.device("cpu"), (f"Running on the CPU: {problem}",)


def kernel_notes(device: torch.device, head_dim: int) -> tuple[str, ...]:
    """Say on a GPU that its kernels cannot be used, if so."""
    if device.type == "cpu":
        return ()
    problem = triton_problem(device)
    if problem is not None:
        return (f"Compressed memory is slower than it could be: no GPU kernels, {problem}.",)
    problem = decode_problem(device, head_dim)
    if problem is not None:
        return (f"Answers are slower than they could be: no kernel reads the cache, {problem}.",)
    return ()


def _cuda_problem() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU."
    major, minor = torch.cuda.get_device_capability()
    if any(_serves(arch, major, minor) for arch in torch.cuda.get_arch_list()):
        return None
    return f"this torch build has no code for compute capability {major}.{minor}."


def _serves(arch: str, major: int, minor: int) -> bool:
    """Tell whether code for `arch`, such as sm_86 or compute_90, runs on a capability."""
    kind, _, number = arch.partition("_")
    built_major, built_minor = divmod(int(number.rstrip("af")), 10)
    if kind == "compute":
        return (built_major, built_minor) <= (major, minor)
    return built_major == major and built_minor <= minor


def _dtype_options(dtype: str, device: torch.device) -> dict[str, object]:
    if dtype == "auto":
        return {"dtype": torch.float32 if device.type == "cpu" else "auto"}
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose auto or one of {', '.join(DTYPES)}.")
    return Precision(dtype).load_options()


def check_weights_fit(
    name: str, config: PreTrainedConfig, dtype: str, memory: MemoryReading
) -> None:
    """Refuse weights that cannot fit a GPU.

    Args:
        name: What the model is called.
        config: Its config; a checkpoint that is quantized already is left to try.
        dtype: As `load_model` takes it.
        memory: The GPU's.

    Raises:
        OutOfMemoryError: They do not fit; the numbers are named.
    """
    if getattr(config, "quantization_config", None):
        return
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    wanted = stored if dtype == "auto" else dtype
    precision = Precision(wanted) if wanted in DTYPES else Precision.BFLOAT16
    needed = count_weights(config).num_bytes(precision)
    if needed > memory.device_free_bytes:
        raise OutOfMemoryError(
            f"{name} takes {needed / 1e9:.1f} GB in {precision}, and "
            f"{memory.device_free_bytes / 1e9:.1f} GB of {memory.device_name} are free. Choose a "
            "smaller model" + ("." if precision is Precision.NF4 else ", or --dtype nf4.")
        )


def _context_length(config: object) -> int:
    length = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(length or _UNLIMITED_CONTEXT)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def _explain(source: str | Path, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{source} could not be loaded: {first_line} "
        "Give a Hugging Face id or a local folder with safetensors weights and a tokenizer."
    )
