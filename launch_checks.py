"""What this machine is: its Python, folder and driver, and which build of torch fits.

Judges and never changes anything; `launch.py` acts on it. Standard library only, but for torch in
`describe_torch`.
Run as a script, inside the environment, it prints what `describe_torch` found, as JSON.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def python_problem(found: str, is_64bit: bool, system: str, machine: str) -> str:
    """Return why this Python (such as "3.12") cannot be used, as a sentence, or '' if it can."""
    wanted = "Python 3.12 (64-bit) from python.org"
    if found not in PYTHON_VERSIONS:
        return f"Nexusquant needs Python 3.10 to 3.14, this is {found}. Install {wanted}."
    if not is_64bit:
        return f"This Python {found} is a 32-bit build, and torch has none. Install {wanted}."
    if (system, machine) == ("Windows", "ARM64"):
        return f"This Python {found} is an ARM build, and torch has none. Install {wanted}."
    if (system, machine) == ("Darwin", "x86_64"):
        return "torch is no longer made for Intel Macs; Nexusquant needs Apple silicon."
    return ""


def folder_problem(root: Path, temp_dir: Path) -> str:
    """Return why nothing can be installed in `root`, as a sentence, or '' if it can."""
    # a mapped drive letter has become its network path in `ROOT` by resolve()
    if str(root).startswith(("\\\\", "//")):
        return "This folder is on a network drive. Copy it to a drive of this computer."
    inside_temp = root.parts[len(temp_dir.parts) :] if temp_dir in root.parents else ()
    if any(re.search(r"(?i)\.zip\b|^7z|^rar\$|^temp\d+_", part) for part in inside_temp):
        return "This is still inside the zip file. Unpack the whole zip first, then start there."
    return ""


def folder_warnings(root: Path, system: str) -> list[str]:
    """Return what may go wrong in `root`, one sentence each."""
    found = []
    if any(part.lower().startswith("onedrive") for part in root.parts):
        found.append("This folder is synchronised by OneDrive, which will copy gigabytes.")
    if system == "Windows" and len(str(root)) > 120:
        found.append("This folder's path is long, and Windows may refuse the files below it.")
    return [text + " If it fails, move the folder, for example to C:\\nexusquant" for text in found]


@dataclass(frozen=True)
class TorchRoute:
    """One way to install torch: a uv torch backend, or plain pip when it is None."""

    backend: str | None
    download: str
    disk_gb: int


def has_nvidia_driver() -> bool:
    """Ask nvidia-smi whether a driver answers and has at least one GPU."""
    program = shutil.which("nvidia-smi") or "/usr/lib/wsl/lib/nvidia-smi"
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU " in answer.stdout


def torch_routes(has_driver: bool, system: str) -> tuple[TorchRoute, ...]:
    """Return the ways to install torch on such a machine, best first; the last is plain pip."""
    if has_driver:
        plain = TorchRoute(None, "up to 3 GB", 10)
        return TorchRoute("auto", "about 3 GB (the CUDA build of torch)", 10), plain
    if system == "Linux":
        plain = TorchRoute(None, "200 MB to 3 GB (pip chooses the build of torch)", 3)
        return TorchRoute("cpu", "about 400 MB (the CPU build of torch)", 3), plain
    return (TorchRoute(None, "about 400 MB (the CPU build of torch)", 3),)


def is_compiled_for(arches: list[str], capability: tuple[int, int]) -> bool:
    """Say whether a build for `arches` (as `torch.cuda.get_arch_list`) runs on such a card."""
    targets = re.findall(r"(sm|compute)_(\d+)(\d)([af]?)", " ".join(arches))
    for kind, major, minor, suffix in targets:
        target = int(major), int(minor)
        # machine code runs on later minors of its generation, PTX on anything later
        is_near = target <= capability and (kind == "compute" or target[0] == capability[0])
        if target == capability or (is_near and suffix != "a"):
            return True
    return False


def gpu_problem(found: dict) -> str:
    """Return why torch cannot use the GPU, or ''. `found` comes from `describe_torch`."""
    if not found["cuda"]:
        return "only the CPU build of torch could be installed"
    if not found["available"]:
        return "torch cannot open the GPU" + (f" ({found['reason']})" if found["reason"] else "")
    if not is_compiled_for(found["arches"], tuple(found["capability"])):
        card = "{} (compute capability {}.{})".format(found["name"], *found["capability"])
        return f"this build of torch has no code for {card}"
    return f"a small test on the GPU failed ({found['reason']})" if found["reason"] else ""


def describe_torch() -> dict:
    """Import torch and try the GPU. Runs inside the environment, in a process of its own."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"error": str(error)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    found = {"version": torch.__version__, "cuda": torch.version.cuda or "", "available": available}
    found["reason"] = " ".join(str(caught[0].message).split()) if caught and not available else ""
    if available:
        found["name"], found["arches"] = torch.cuda.get_device_name(0), torch.cuda.get_arch_list()
        found["capability"] = torch.cuda.get_device_capability(0)
        try:
            torch.ones(8, device="cuda").mul(2).sum().item()
        except RuntimeError as error:
            found["reason"] = str(error).splitlines()[0]
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe_torch()))
