"""Whether kernels run on a device, Triton's and CUDA C++. Knows no operation of ours."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys

import torch


@functools.cache
def triton_problem(device: torch.device) -> str | None:
    """Say why GPU kernels cannot be used on a device, or None if they can.

    A kernel is built and run, once for every device: that also needs a C compiler, headers of
    Python and a card that Triton knows, which no version number tells.

    Args:
        device: Where the tensors are.
    """
    if device.type != "cuda":
        return f"there are none for the device {device.type!r}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    try:
        return None if _probe(device) else "a small test gave a wrong result"
    except subprocess.SubprocessError:
        return "the C compiler failed (Debian and Ubuntu: install gcc and python3-dev)"
    except _build_errors() as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        return f"a small test failed ({type(error).__name__}: {first_line})"


_LEAST_CAPABILITY = (8, 0)


@functools.cache
def cuda_problem(device: torch.device) -> str | None:
    """Say why kernels in CUDA C++ cannot be used on a device, or None if they can.

    A small one is compiled and run, once for every device.

    Args:
        device: Where the tensors are.
    """
    if device.type != "cuda":
        return f"there are none for the device {device.type!r}"
    if torch.version.cuda is None:
        return "this torch was not built for NVIDIA cards"
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "they need an Ampere card or a newer one"
    from nexusquant.kernels.cuda_program import CudaError, double

    numbers = torch.arange(5, dtype=torch.int32, device=device)
    try:
        is_right = bool((double(numbers) == 2 * numbers).all())
    except (CudaError, OSError, RuntimeError) as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        return f"a small test failed ({type(error).__name__}: {first_line})"
    return None if is_right else "a small test gave a wrong result"


def _probe(device: torch.device) -> bool:
    from nexusquant.kernels.triton_probe import double

    numbers = torch.arange(5, dtype=torch.int32, device=device)
    return bool((double(numbers) == 2 * numbers).all())


def _build_errors() -> tuple[type[Exception], ...]:
    """What a missing compiler, header, library or an unknown card shows itself as."""
    errors = (ImportError, OSError, RuntimeError, ValueError, AttributeError)
    # not there if the import of Triton itself failed
    triton_errors = sys.modules.get("triton.errors")
    own = (triton_errors.TritonError,) if triton_errors else ()
    return (*errors, *own)
