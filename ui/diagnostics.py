"""What is installed and what it runs on, as text to copy. Knows no chat and no file of anybody."""

from __future__ import annotations

import platform
from importlib import metadata

from nexusquant.engine import MemoryReading, ModelInfo
from ui.presenters import byte_size, count

PACKAGES = ("torch", "transformers", "gradio", "plotly", "pypdfium2", "safetensors", "triton")


def diagnostics_text(
    info: ModelInfo | None, memory: MemoryReading | None, num_workspaces: int
) -> str:
    """One fact per line."""
    lines = [
        f"system: {platform.platform()}",
        f"python: {platform.python_version()}",
        *(f"{name}: {_version(name)}" for name in PACKAGES),
        f"driver: {_driver()}",
        *_model_lines(info),
    ]
    if memory is not None:
        lines += [
            f"device memory: {byte_size(memory.device_free_bytes)} free of "
            f"{byte_size(memory.device_total_bytes)}",
            f"this program: {byte_size(memory.process_bytes)}{_allowed(memory)}",
        ]
    return "\n".join([*lines, f"open pages: {num_workspaces}"])


def _allowed(memory: MemoryReading) -> str:
    if memory.allowed_bytes is None:
        return ""
    return f", at most {byte_size(memory.allowed_bytes)} (--gpu-share)"


def _model_lines(info: ModelInfo | None) -> list[str]:
    if info is None:
        return ["model: none loaded"]
    return [
        f"model: {info.name}",
        f"model size: {count(info.num_parameters)} parameters, {byte_size(info.weight_bytes)}",
        f"attention: {info.num_layers} layers, {info.num_kv_heads} KV heads of {info.head_dim}",
        f"context: {count(info.context_length)} tokens",
        f"device: {info.device} ({info.device_name}), {info.dtype}",
        *(f"note: {note}" for note in info.notes),
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    """The NVIDIA driver's version, from the library that comes with it."""
    try:
        import pynvml
    except ImportError:
        return "unknown (nvidia-ml-py is not installed)"
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return "no NVIDIA driver"
    return str(version)
