"""A name or folder to a model that can generate: device, type, tokenizer, context length.

Knows transformers' loading. Must not know how caches work, or threads. Loads safetensors only and
never runs code that came with a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from nexusquant.cache import ModelProfile, scalings_for, supported_layers
from nexusquant.config import RopeScaling
from nexusquant.errors import OutOfMemoryError, UnsupportedModelError

_UNLIMITED_CONTEXT = 1_000_000
DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        OutOfMemoryError: It does not fit on the device.
    """
    target, notes = choose_device(device)
    torch_dtype = _choose_dtype(dtype, target)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        # before gigabytes are read for nothing
        supported_layers(config)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=torch_dtype,
            device_map={"": target},
            use_safetensors=True,
            trust_remote_code=False,
        )
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{source} does not fit on this device. Choose a smaller model."
        ) from error
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UnsupportedModelError(_explain(source, error)) from error
    model.eval()
    name = Path(source).name if Path(source).is_dir() else str(source)
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


def _choose_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose auto or one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


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
