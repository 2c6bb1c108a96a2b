"""Compiles kernels for cards that are not there. Knows compilers, and no kernel of ours."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

CAPABILITIES = (75, 80, 86, 89, 90, 120)
"""Turing, Ampere (data centre and desktop), Ada, Hopper, Blackwell."""

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

each_capability = pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda cc: f"sm_{cc}")


class Resources(NamedTuple):
    """What one compiled kernel takes.

    Args:
        registers: 32-bit registers of one thread.
        spilled_bytes: Local memory of one thread: registers that did not fit.
        shared_bytes: Shared memory of one program.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int


def compile_for(
    kernel: Any,
    capability: int,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    num_warps: int = 4,
    num_stages: int = 2,
    aligned: Sequence[str] = (),
) -> Resources:
    """Compile a kernel down to machine code.

    Args:
        kernel: What `triton.jit` made.
        capability: One of `CAPABILITIES`.
        signature: Type of each argument, such as "*u8", "*fp32", "i32".
        constants: Value of each constexpr.
        num_warps: Warps of one program.
        num_stages: Depth of Triton's software pipelines.
        aligned: Integer arguments that are multiples of 16, which Triton makes use of.
    """
    types = {
        name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names
    }
    # so are the addresses of tensors that torch allocates
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(types.items())
        if kind.startswith("*") or name in aligned
    }
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(constants), attrs=attributes)
    options = {"num_warps": num_warps, "num_stages": num_stages}
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    registers, stack = usage(compiled.asm["cubin"])
    return Resources(registers, stack, compiled.metadata.shared)


def nvrtc() -> ctypes.CDLL:
    """The compiler of CUDA C++, from its own package: torch brings it along for GPUs only."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(path) for path in found.submodule_search_locations] if found else []
    libraries = [path for folder in folders for path in folder.glob("cu*/lib/libnvrtc.so.*")]
    if not libraries:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    return ctypes.CDLL(str(libraries[0]))


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of one thread of the only kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found, told
    return int(found[1]), int(found[2])
