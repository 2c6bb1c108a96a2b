"""The environment beside this file: making it, filling it, and knowing that it is complete.

Knows `.venv`, pip, uv, the log and the stamp. Must not know how the app is started or what is
inside `nexusquant` or `ui`. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import launch_checks as checks

LOG = logging.getLogger("launch")
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# exists only after a complete set-up
STAMP_FILE = VENV / "nexusquant-stamp.json"
LOG_FILE = ROOT / "logs" / "launch.log"
REQUIREMENTS, TEST_REQUIREMENTS = "requirements.txt", "requirements-dev.txt"
# raise this when the way of installing changes: every user's next start then installs again
LAUNCHER_VERSION = 1
UV_PIN = "uv>=0.9,<1"
# the build that holds the older card generations
OLDER_BACKEND, OLDER_CUDA = "cu126", "12.6"


class LaunchError(Exception):
    """Something the user can act on; the text is the sentence to show."""


def child_environment() -> dict[str, str]:
    """Return the environment for pip, uv and the app: what must be set before any import."""
    dropped = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX")
    child = {name: value for name, value in os.environ.items() if name not in dropped}
    child.update(PYTHONUTF8="1", PYTHONNOUSERSITE="1", PIP_USER="0", UV_PYTHON_DOWNLOADS="never")
    child.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    child.update(HF_HUB_DISABLE_SYMLINKS_WARNING="1")
    if platform.system() == "Linux":
        child.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    return child


def run_step(command: Sequence[str | Path], *, quiet: bool = False, timeout_s: int = 0) -> bool:
    """Run one step of the set-up, in sight of the user or, when quiet, into the log."""
    LOG.debug("$ %s", subprocess.list2cmdline(map(str, command)))
    with LOG_FILE.open("ab") as log, contextlib.suppress(subprocess.TimeoutExpired):
        output = log if quiet else None
        done = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=timeout_s or None,
            check=False,
        )
        return done.returncode == 0
    return False


def ask_environment(*arguments: str | Path) -> str:
    """Run the environment's Python and return what it printed, or '' when that fails."""
    try:
        answer = subprocess.run(
            [PYTHON, *arguments],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    except OSError:
        return ""
    LOG.debug("%s: %s %s", arguments[-1], answer.stdout.strip(), answer.stderr.strip())
    return answer.stdout.strip() if answer.returncode == 0 else ""


def run_download(command: Sequence[str | Path]) -> bool:
    """Run a step in sight of the user; once more on failure: downloads break, the log has none."""
    return run_step(command) or run_step(command, quiet=True)


def pip_install(*arguments: str | Path) -> bool:
    """Install into the environment with pip."""
    options = ("--no-input", "--disable-pip-version-check", "--prefer-binary")
    return run_download((PYTHON, "-m", "pip", "install", *options, *arguments))


def uv_install_torch(pin: str, backend: str) -> bool:
    """Install the build of torch that uv has for `backend`; says no soon without its index."""
    if not pip_install("--quiet", UV_PIN):
        return False
    # with its cache on the drive of the environment, uv links instead of copying
    options = ("--python", PYTHON, "--cache-dir", VENV / "uv-cache", "--torch-backend", backend)
    uv_install = (PYTHON, "-m", "uv", "pip", "install", *options, pin)
    if not run_step((*uv_install, "--dry-run", "--no-deps"), quiet=True, timeout_s=30):
        return False
    return run_download((*uv_install, "--reinstall-package", "torch"))


def install_torch(pin: str, routes: Sequence[checks.TorchRoute]) -> None:
    """Install torch by the first route that works, saying what each one downloads."""
    for route in routes:
        if shutil.disk_usage(ROOT).free < route.disk_gb * 1e9:
            raise LaunchError(f"This drive needs {route.disk_gb} GB of free space for the set-up.")
        LOG.info("Downloading torch: %s ...", route.download)
        if uv_install_torch(pin, route.backend) if route.backend else pip_install(pin):
            return
        LOG.info("That build of torch cannot be had from here.")
    raise LaunchError("torch could not be installed. Check the internet connection, start again.")


def inspect_torch() -> dict:
    """Return what `launch_checks.describe_torch` finds in the environment."""
    return json.loads(ask_environment(ROOT / "launch_checks.py") or '{"error": "not installed"}')


def gpu_notice(pin: str, found: dict) -> str:
    """Return the sentence that says why the GPU is not used, or ''; tries the older build once."""
    problem = checks.gpu_problem(found)
    if problem and found["cuda"] not in ("", OLDER_CUDA):
        LOG.info("The GPU cannot be used: %s. Trying an older build of torch, 3 GB ...", problem)
        if uv_install_torch(pin, OLDER_BACKEND):
            problem = checks.gpu_problem(inspect_torch())
    advice = "Nexusquant runs on the processor, slowly. After a driver update, start with --repair."
    return f"The GPU is not used: {problem}. {advice}" if problem else ""


def install(with_tests: bool) -> dict:
    """Install what is missing into the environment and return the stamp of it."""
    has_driver = checks.has_nvidia_driver()
    requirements = (ROOT / REQUIREMENTS).read_text(encoding="utf-8")
    pin = "".join(re.findall(r"(?m)^torch==\S+", requirements))
    found = inspect_torch()
    is_same = found.get("version", "").split("+")[0] == pin[len("torch==") :]
    if not is_same or (has_driver and not found["cuda"]):
        install_torch(pin, checks.torch_routes(has_driver, platform.system()))
        found = inspect_torch()
    notice = ""
    if has_driver and "error" not in found:
        notice = gpu_notice(pin, found)
        found = inspect_torch()
    if "error" in found:
        windows = "install Microsoft's Visual C++ Redistributable (x64), then start again"
        advice = windows if os.name == "nt" else "start again with --repair"
        raise LaunchError(f"torch does not load ({found['error']}): {advice}.")
    LOG.info("Downloading the other packages: about 200 MB ...")
    # torch's pin is in the list again, so that no other package can replace it
    test_list = ("-r", ROOT / TEST_REQUIREMENTS) if with_tests else ()
    if not pip_install("-r", ROOT / REQUIREMENTS, *test_list):
        raise LaunchError("A package could not be installed. Check the connection, start again.")
    stamp = wanted_stamp(environment_version(), with_tests)
    return {**stamp, "driver": has_driver, "notice": notice}


def read_stamp() -> dict:
    """Return what the last complete set-up wrote, or {}."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(STAMP_FILE.read_text(encoding="utf-8"))
    return {}


def write_stamp(stamp: dict) -> None:
    """Write the stamp in one piece, so that an interrupted set-up leaves none."""
    draft = STAMP_FILE.with_suffix(".new")
    draft.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    draft.replace(STAMP_FILE)


def wanted_stamp(version: str, with_tests: bool) -> dict:
    """Return what the stamp of an up-to-date environment holds at least."""
    names = [REQUIREMENTS, TEST_REQUIREMENTS][: 2 if with_tests else 1]
    hashes = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in names}
    return {"launcher": LAUNCHER_VERSION, "python": version, **hashes}


def environment_version() -> str:
    """Return the environment's Python version, or '' if it is missing, broken or without pip."""
    answer = ask_environment("-c", "import pip, sys; print('%d.%d' % sys.version_info[:2])")
    return answer if answer in checks.PYTHON_VERSIONS else ""


@contextlib.contextmanager
def only_one_set_up() -> Iterator[None]:
    """Keep two starts from installing into the same environment at once."""
    with LOG_FILE.with_suffix(".lock").open("w", encoding="utf-8") as handle:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise LaunchError("Another start is setting up this folder; wait for it.") from error
        yield


def set_up(with_tests: bool, repair: bool) -> dict:
    """Bring the environment up to date, which mostly means to do nothing; return its stamp."""
    stamp, version = read_stamp(), environment_version()
    if version and not repair and wanted_stamp(version, with_tests).items() <= stamp.items():
        return stamp
    for warning in checks.folder_warnings(ROOT, platform.system()):
        LOG.info(warning)
    with only_one_set_up():
        LOG.info("Setting up Nexusquant in %s. Later starts skip this.", ROOT)
        # without the stamp an interrupted set-up goes on at the next start
        STAMP_FILE.unlink(missing_ok=True)
        new_venv = (sys.executable, "-m", "venv", "--clear", VENV)
        if (repair or not version) and not run_step(new_venv, quiet=True):
            hint = "Is Nexusquant running? On Debian and Ubuntu: sudo apt install python3-venv"
            raise LaunchError(f"The folder .venv could not be made. {hint}")
        write_stamp(install(with_tests))
        shutil.rmtree(VENV / "uv-cache", ignore_errors=True)
    return read_stamp()
