"""What the launcher concludes about a machine: its Python, folder, driver and build of torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch_findings import NEW_CARDS_ONLY, gpu

import launch_checks as checks


@pytest.mark.parametrize("found", ["2.7", "3.9", "3.15", "4.0"])
def test_a_python_without_torch_is_refused_with_what_to_install(found):
    problem = checks.python_problem(found, True, "Linux", "x86_64")
    assert f"this is {found}" in problem
    assert "Install Python 3.12 (64-bit)" in problem


def test_builds_of_python_without_torch_are_refused():
    assert "32-bit" in checks.python_problem("3.12", False, "Windows", "AMD64")
    assert "ARM" in checks.python_problem("3.12", True, "Windows", "ARM64")
    assert "Apple silicon" in checks.python_problem("3.12", True, "Darwin", "x86_64")


@pytest.mark.parametrize("version", checks.PYTHON_VERSIONS)
def test_supported_pythons_are_accepted(version):
    for system, machine in [("Linux", "x86_64"), ("Windows", "AMD64"), ("Darwin", "arm64")]:
        assert checks.python_problem(version, True, system, machine) == ""


@pytest.mark.parametrize("part", ["Temp1_nexusquant.zip", "7zO12AB", "Rar$EX00.1", "ab_n.zip.f3"])
def test_a_folder_inside_an_opened_archive_is_refused(tmp_path, part):
    assert "Unpack" in checks.folder_problem(tmp_path / part / "nexusquant", tmp_path)


def test_a_network_folder_is_refused():
    for root in ("\\\\server\\share\\nexusquant", "//server/share"):
        assert "network" in checks.folder_problem(Path(root), Path("/tmp"))


def test_odd_but_usable_folders_are_accepted(tmp_path):
    for root in (tmp_path / "Größe (1) & Leer! 50%", Path.home() / "old.zip files" / "n", tmp_path):
        assert checks.folder_problem(root, tmp_path) == ""


def test_onedrive_and_long_paths_are_warned_about_on_windows():
    assert len(checks.folder_warnings(Path("/u/OneDrive - Firm/n"), "Windows")) == 1
    assert len(checks.folder_warnings(Path("/u/" + "x" * 130), "Windows")) == 1
    assert checks.folder_warnings(Path("/u/" + "x" * 130), "Linux") == []


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('echo "GPU 0: Card (UUID: x)"', True),
        ('echo "No devices were found"', False),
        ('echo "GPU driver mismatch"; exit 18', False),
    ],
)
def test_a_driver_counts_only_if_it_answers_with_a_gpu(tmp_path, monkeypatch, text, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert checks.has_nvidia_driver() is expected


def test_a_machine_without_nvidia_smi_has_no_driver(monkeypatch):
    monkeypatch.setattr(checks.shutil, "which", lambda _: None)
    assert not checks.has_nvidia_driver()


@pytest.mark.parametrize(
    ("has_driver", "system", "backends"),
    [
        (True, "Linux", ["auto", None]),
        (True, "Windows", ["auto", None]),
        (False, "Linux", ["cpu", None]),
        (False, "Windows", [None]),
        (False, "Darwin", [None]),
    ],
)
def test_the_torch_build_follows_the_driver(has_driver, system, backends):
    routes = checks.torch_routes(has_driver, system)
    assert [route.backend for route in routes] == backends


@pytest.mark.parametrize(
    ("arches", "capability", "runs"),
    [
        (NEW_CARDS_ONLY, (8, 9), True),
        (NEW_CARDS_ONLY, (12, 1), True),
        (NEW_CARDS_ONLY, (7, 0), False),
        (NEW_CARDS_ONLY, (6, 1), False),
        (["sm_80"], (9, 0), False),
        (["sm_86"], (8, 0), False),
        (["compute_80"], (9, 0), True),
        (["compute_90"], (8, 9), False),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        ([], (8, 0), False),
    ],
)
def test_code_runs_on_later_minors_of_its_generation_and_ptx_on_anything_later(
    arches, capability, runs
):
    assert checks.is_compiled_for(arches, capability) is runs


def test_every_reason_for_not_using_the_gpu_is_said():
    assert checks.gpu_problem(gpu()) == ""
    assert "CPU build" in checks.gpu_problem(gpu(cuda=""))
    assert "driver too old" in checks.gpu_problem(gpu(available=False, reason="driver too old"))
    assert "Old Card (compute capability 6.1)" in checks.gpu_problem(gpu(capability=[6, 1]))
    assert "illegal instruction" in checks.gpu_problem(gpu(reason="illegal instruction"))


def test_describe_torch_names_the_installed_build():
    found = checks.describe_torch()
    torch = pytest.importorskip("torch")
    assert found["version"] == torch.__version__
    assert found["available"] is torch.cuda.is_available()
    assert found["available"] or found["reason"] == ""
