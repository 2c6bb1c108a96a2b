"""CUDA programs are compiled once, and anew when anything that they depend on is another."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compiling import nvrtc, usage

from nexusquant.kernels import cuda_program
from nexusquant.kernels.cuda_program import CudaError, CudaKernel, kept_cubin
from nexusquant.kernels.program_files import FOLDER_VARIABLE

SOURCE = 'extern "C" __global__ void put(int* out) { *out = NUMBER; }'
GIVEN = {"source": SOURCE, "macros": {"NUMBER": 3}, "capability": (8, 0)}


class Compiler:
    """NVRTC as a new process has it, counting what it compiles; it may claim a version."""

    def __init__(self, version: tuple[int, int] | None = None) -> None:
        self._library, self._claimed, self.num_compiled = nvrtc(), version, 0
        self.nvrtcCompileProgram, self.nvrtcVersion = self._compile, self._version

    def __getattr__(self, name: str):
        return getattr(self._library, name)

    def _compile(self, *args) -> int:
        self.num_compiled += 1
        return self._library.nvrtcCompileProgram(*args)

    def _version(self, major, minor) -> int:
        status = self._library.nvrtcVersion(major, minor)
        if self._claimed:
            major._obj.value, minor._obj.value = self._claimed
        return status


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_a_program_is_compiled_once(folder):
    first, second = Compiler(), Compiler()
    cubin = kept_cubin(first, **GIVEN)
    assert usage(cubin)[0] > 0
    assert kept_cubin(second, **GIVEN) == cubin
    assert (first.num_compiled, second.num_compiled) == (1, 0)


def test_without_a_folder_a_program_is_compiled_each_time(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    compiler = Compiler()
    assert kept_cubin(compiler, **GIVEN) == kept_cubin(compiler, **GIVEN)
    assert compiler.num_compiled == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "change"),
    [
        (None, {"source": SOURCE + "\n"}),
        (None, {"macros": {"NUMBER": 4}}),
        (None, {"macros": {"NUMBER": 3, "MORE": 1}}),
        (None, {"capability": (8, 6)}),
        ((12, 9), {}),
        ((13, 99), {}),
    ],
    ids=["source", "value of a macro", "one more macro", "card", "compiler", "its minor version"],
)
def test_what_is_another_is_compiled_anew_beside_the_first(version, change, folder):
    cubin = kept_cubin(Compiler(), **GIVEN)
    other, again = Compiler(version), Compiler()
    kept_cubin(other, **(GIVEN | change))
    assert other.num_compiled == 1
    assert len(list(folder.iterdir())) == 2
    assert kept_cubin(again, **GIVEN) == cubin
    assert again.num_compiled == 0


def test_a_damaged_file_is_compiled_anew(folder):
    cubin = kept_cubin(Compiler(), **GIVEN)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    anew, again = Compiler(), Compiler()
    assert kept_cubin(anew, **GIVEN) == kept_cubin(again, **GIVEN) == cubin
    assert (anew.num_compiled, again.num_compiled) == (1, 0)


def test_a_folder_that_cannot_be_written_costs_only_the_time(folder):
    folder.write_bytes(b"a file")
    compiler = Compiler()
    assert kept_cubin(compiler, **GIVEN) == kept_cubin(compiler, **GIVEN)
    assert compiler.num_compiled == 2


def test_a_mistake_is_told_every_time(folder):
    for _ in range(2):
        with pytest.raises(CudaError, match="NUMBER"):
            kept_cubin(Compiler(), SOURCE, {}, (8, 0))
    assert not folder.exists()


def test_a_kernel_is_made_from_the_file(folder, tmp_path, monkeypatch):
    loaded = []

    def load(module, image: bytes) -> int:
        loaded.append(image)
        return 0

    driver = SimpleNamespace(cuModuleLoadData=load, cuModuleGetFunction=lambda *_: 0)
    monkeypatch.setattr(cuda_program, "_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    path = tmp_path / "put.cu"
    path.write_text(SOURCE, "utf-8")
    compilers = [Compiler(), Compiler()]
    for compiler in compilers:
        monkeypatch.setattr(cuda_program, "_nvrtc", lambda compiler=compiler: compiler)
        CudaKernel((path,), "put", {"NUMBER": 3}, torch.device("cuda"))
    assert [compiler.num_compiled for compiler in compilers] == [1, 0]
    assert loaded[0] == loaded[1] == kept_cubin(nvrtc(), **GIVEN)


def test_the_compiler_s_version_is_asked_of_itself():
    major, minor = ctypes.c_int(), ctypes.c_int()
    assert nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
    assert major.value >= 12
    assert cuda_program._version_of(nvrtc()) == f"{major.value}.{minor.value}"
