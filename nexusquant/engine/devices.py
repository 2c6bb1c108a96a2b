"""Which devices there are, what they can do, and how much of a card this program may take.

Knows torch's devices and the kernels' demands. Must not know models.
"""

from __future__ import annotations

import sys

import torch

from nexusquant.cache import decode_problem, triton_problem
from nexusquant.engine.memory import DRIVER_BYTES, read_memory

DEVICES = ("auto", "cpu", "cuda")


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


def devices_of(target: torch.device) -> tuple[torch.device, ...]:
    """The CPU, or every card that this torch has code for.

    Args:
        target: What `choose_device` chose.
    """
    if target.type == "cpu":
        return (target,)
    numbers = [n for n in range(torch.cuda.device_count()) if _cuda_problem(n) is None]
    return tuple(torch.device("cuda", number) for number in numbers)


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


def default_gpu_share(platform: str = sys.platform) -> float:
    """How much of a card's memory this program takes at most, where nobody said.

    Windows would go on in the computer's memory, many times slower, instead of saying that the
    card is full, and needs some of the card for the screen. Elsewhere the driver refuses.
    """
    return 0.9 if platform == "win32" else 1.0


def cap_gpu_memory(share: float) -> None:
    """Refuse memory beyond a share of each card with an error that can be caught.

    Args:
        share: Of all the card's memory, what the driver takes for this program included, in
            (0, 1]. Below 1, what other programs hold now is left to them too.

    Raises:
        ValueError: Another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"The share of GPU memory is {share}; use a number above 0, up to 1.")
    for device in devices_of(torch.device("cuda")):
        fraction = 1.0
        if share < 1:
            now = read_memory(device)
            total = now.device_total_bytes
            limit = min(share * total, now.device_free_bytes + now.process_bytes)
            fraction = max(limit - DRIVER_BYTES, 0) / total
        torch.cuda.set_per_process_memory_fraction(fraction, device)


def _cuda_problem(number: int | None = None) -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU."
    major, minor = torch.cuda.get_device_capability(*([] if number is None else [number]))
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
