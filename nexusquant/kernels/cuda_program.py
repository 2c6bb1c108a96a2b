"""CUDA C++ compiled when it is first needed, and its kernels started. Knows no kernel's meaning.

NVRTC comes along with every CUDA build of torch, so nobody needs a compiler or another package.
Programs are plain C++ without headers; what differs between shapes is given as macros. Compiled
ones are kept as files where the environment names a folder for them; see `program_files`.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from nexusquant.kernels.program_files import kept

_MOST_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_COOPERATIVE = 2  # CU_LAUNCH_ATTRIBUTE_COOPERATIVE
_TAKES_COOPERATIVE = 95  # CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH


class CudaError(RuntimeError):
    """A compiler or a driver said no."""


def compile_cubin(
    nvrtc: ctypes.CDLL, source: str, macros: Mapping[str, int], capability: tuple[int, int]
) -> bytes:
    """Machine code of a program.

    Args:
        nvrtc: The compiler's library.
        source: CUDA C++.
        macros: Definitions in front of it.
        capability: Compute capability to compile for.

    Raises:
        CudaError: With the compiler's words.
    """
    program = ctypes.c_void_p()
    given = (source.encode(), b"program.cu", 0, None, None)
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), *given), "it made no program")
    flags = _flags(macros, capability)
    array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    failure = nvrtc.nvrtcCompileProgram(program, len(flags), array)
    if failure:
        log = _bytes_of(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        raise CudaError(log.rstrip(b"\0").decode(errors="replace"))
    cubin = _bytes_of(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin


def kept_cubin(
    nvrtc: ctypes.CDLL, source: str, macros: Mapping[str, int], capability: tuple[int, int]
) -> bytes:
    """Machine code of a program, compiled only if there is no file of it yet.

    Args:
        nvrtc: The compiler's library; another version of it compiles anew.
        source: CUDA C++, all of it: a file that it includes would not be noticed to change.
        macros: Definitions in front of it.
        capability: Compute capability to compile for.

    Raises:
        CudaError: With the compiler's words.
    """
    made_from = source, *_flags(macros, capability), _version_of(nvrtc)
    return kept(made_from, lambda: compile_cubin(nvrtc, source, macros, capability))


class _Attribute(ctypes.Structure):
    """A CUlaunchAttribute that holds an int."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16))


class _LaunchConfig(ctypes.Structure):
    """A CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


class CudaKernel:
    """One kernel of a program on one device; made by `cuda_kernel`.

    Args:
        paths: The program's files, one after the other.
        name: The kernel's name, declared `extern "C"`.
        macros: What the program's shapes are.
        device: Where it will run.

    Raises:
        CudaError: The program does not compile, or the driver does not take it.
    """

    def __init__(
        self, paths: Sequence[Path], name: str, macros: Mapping[str, int], device: torch.device
    ) -> None:
        self._driver, self._device, self._allowed_shared = _driver(), device, 0
        capability = torch.cuda.get_device_capability(device)
        source = "".join(path.read_text(encoding="utf-8") for path in paths)
        cubin = kept_cubin(_nvrtc(), source, macros, capability)
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            # the driver works in the context that torch has made
            torch.cuda.current_stream().synchronize()
            load, find = self._driver.cuModuleLoadData, self._driver.cuModuleGetFunction
            _check(load(ctypes.byref(self._module), cubin), "the driver took no program")
            found = find(ctypes.byref(self._function), self._module, name.encode())
            _check(found, f"there is no {name}")

    @functools.cache  # noqa: B019 - kernels live as long as the process
    def constant(self, name: str) -> int:
        """An `int` of the program that its starter has to know."""
        place, size, value = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_int()
        found = (ctypes.byref(place), ctypes.byref(size), self._module, name.encode())
        with torch.cuda.device(self._device):
            _check(self._driver.cuModuleGetGlobal_v2(*found), f"there is no {name}")
            copy = self._driver.cuMemcpyDtoH_v2
            _check(copy(ctypes.byref(value), place, ctypes.c_size_t(4)), f"{name} was not read")
        return value.value

    def _allow_shared(self, num_bytes: int) -> None:
        if num_bytes > self._allowed_shared:
            allow = self._driver.cuFuncSetAttribute
            allowed = allow(self._function, _MOST_DYNAMIC_SHARED, num_bytes)
            _check(allowed, f"a block gets no {num_bytes:,} bytes of shared memory")
            self._allowed_shared = num_bytes

    def launch(
        self,
        grid: tuple[int, int],
        num_threads: int,
        shared_bytes: int,
        *args: torch.Tensor | int | float | None,
        is_cooperative: bool = False,
    ) -> None:
        """Start it on torch's stream: tensors as pointers, None as a null, numbers in 32 bits.

        Args:
            grid: Blocks.
            num_threads: Of a block.
            shared_bytes: Of a block.
            args: What the kernel is given.
            is_cooperative: All its blocks run at once, so that they may wait for each other; see
                `starts_cooperative`.

        Raises:
            CudaError: The device has less shared memory, or cannot start it.
        """
        values = [_argument(arg) for arg in args]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = torch.cuda.current_stream(self._device).cuda_stream
        attribute = _Attribute(_COOPERATIVE)
        attribute.value[0] = 1
        size = (ctypes.c_uint * 3)(*grid, 1), (ctypes.c_uint * 3)(num_threads, 1, 1), shared_bytes
        config = _LaunchConfig(*size, stream, ctypes.pointer(attribute), int(is_cooperative))
        # the current device may be another layer's
        with torch.cuda.device(self._device):
            self._allow_shared(shared_bytes)
            launch = self._driver.cuLaunchKernelEx
            started = launch(ctypes.byref(config), self._function, pointers, None)
        _check(started, "a kernel did not start")


@functools.lru_cache(maxsize=1024)
def cuda_kernel(
    paths: tuple[Path, ...], name: str, macros: tuple[tuple[str, int], ...], device: torch.device
) -> CudaKernel:
    """A kernel, compiled once for its macros; see `CudaKernel`."""
    return CudaKernel(paths, name, dict(macros), device)


@functools.cache
def starts_cooperative(device: torch.device) -> bool:
    """Whether a kernel's blocks can be promised to run all at once: not with every Windows driver.

    Args:
        device: With a number.
    """
    handle, answer = ctypes.c_int(), ctypes.c_int()
    _check(_driver().cuDeviceGet(ctypes.byref(handle), device.index), "there is no such device")
    asked = _driver().cuDeviceGetAttribute(ctypes.byref(answer), _TAKES_COOPERATIVE, handle)
    _check(asked, "the driver did not say how it starts kernels")
    return bool(answer.value)


def double(numbers: torch.Tensor) -> torch.Tensor:
    """Twice each of a few numbers, int32: tells whether programs compile and run at all."""
    kernel = cuda_kernel((Path(__file__).parent / "probe.cu",), "double_all", (), numbers.device)
    doubled = torch.empty_like(numbers)
    kernel.launch((1, 1), 32, 0, numbers, doubled, numbers.numel())
    return doubled


def _argument(arg: torch.Tensor | int | float | None) -> ctypes._SimpleCData:
    if arg is None:
        return ctypes.c_void_p(None)
    if isinstance(arg, torch.Tensor):
        return ctypes.c_void_p(arg.data_ptr())
    return ctypes.c_float(arg) if isinstance(arg, float) else ctypes.c_int(arg)


def _flags(macros: Mapping[str, int], capability: tuple[int, int]) -> list[str]:
    flags = ["--gpu-architecture=sm_{}{}".format(*capability), "--std=c++17"]
    return flags + [f"-D{name}={int(value)}" for name, value in macros.items()]


def _version_of(nvrtc: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    told = nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    _check(told, "the compiler told no version")
    return f"{major.value}.{minor.value}"


def _bytes_of(size_of: object, read: object, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)), "it gave no size")
    data = ctypes.create_string_buffer(size.value)
    _check(read(program, data), "it gave no result")
    return data.raw


def _check(status: int, what: str) -> None:
    if status:
        raise CudaError(f"{what} (status {status})")


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    major = (torch.version.cuda or "0").split(".")[0]
    is_windows = sys.platform == "win32"
    names = [f"nvrtc64_{major}0_0.dll"] if is_windows else [f"libnvrtc.so.{major}", "libnvrtc.so"]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CudaError(f"{names[0]}, which comes along with torch, was not found")


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
