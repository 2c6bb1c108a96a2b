"""Start the app or its tests in the environment beside this file, setting it up when needed.

What `launch.sh` and `launch.bat` share: they only find a Python that can run this. Must not know
how things are installed (`launch_install`) or judged (`launch_checks`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import launch_checks as checks
from launch_install import (
    LOG,
    LOG_FILE,
    PYTHON,
    ROOT,
    LaunchError,
    ask_environment,
    child_environment,
    set_up,
)

OWN_FLAGS = ("--test", "--repair")
# exit codes of a stop that the user asked for; the last one is Ctrl+C on Windows
ASKED_TO_STOP = (0, 130, 143, -signal.SIGINT, -signal.SIGTERM, 0xC000013A)
HELP = """usage: launch [--test | --repair] [options]

The first start installs everything into .venv beside this script; later ones need no network.

  --test [pytest options]  set up, then run the whole test suite
  --repair                 make .venv anew, for example after an update of the GPU's driver
  --help                   this text, then the app's own options

On Windows the window waits for a key after an error, unless NEXUSQUANT_NO_PAUSE is set.

"""


def copy_to_log(stream: IO[bytes]) -> None:
    """Pass the app's error output on to the screen, and keep it in the log."""
    with LOG_FILE.open("ab", buffering=0) as log:
        while chunk := os.read(stream.fileno(), 65536):
            log.write(chunk)
            sys.stderr.write(chunk.decode("utf-8", "replace"))
            sys.stderr.flush()


def start(command: Sequence[str | Path], stamp: dict, folder: Path | None = None) -> int:
    """Run the app or the tests to the end and return the exit code."""
    # a GPU that torch cannot use must not be seen by it either
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if stamp["notice"] else {}
    env = {**child_environment(), **hidden}
    process = subprocess.Popen([PYTHON, *command], env=env, cwd=folder, stderr=subprocess.PIPE)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    copier = threading.Thread(target=copy_to_log, args=(process.stderr,), daemon=True)
    copier.start()
    while process.returncode is None:
        # Ctrl+C reached the app as well, which ends by itself
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
    # a browser that the app opened may hold the stream for ever
    copier.join(timeout=1)
    return process.returncode


def show_help() -> int:
    """Print our options, then the app's as far as its imports are installed."""
    later = "The options of the app follow here after the first start."
    sys.stdout.write(HELP + (ask_environment(ROOT / "app.py", "--help") or later) + "\n")
    return 0


def open_log() -> None:
    """Begin logging to the screen and to the log file."""
    try:
        LOG_FILE.parent.mkdir(exist_ok=True)
        if LOG_FILE.exists() and LOG_FILE.stat().st_size > 5_000_000:
            LOG_FILE.unlink()
        to_file = logging.FileHandler(LOG_FILE, encoding="utf-8")
    except OSError as error:
        raise LaunchError(f"Nothing can be written here ({error}). Move the folder.") from error
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    to_screen = logging.StreamHandler(sys.stdout)
    to_screen.setLevel(logging.INFO)
    LOG.setLevel(logging.DEBUG)
    LOG.handlers = [to_file, to_screen]


def launch(arguments: Sequence[str]) -> int:
    """Check the machine, set up, start; return the exit code."""
    version, system = "{}.{}".format(*sys.version_info), platform.system()
    problem = checks.python_problem(version, sys.maxsize > 2**32, system, platform.machine())
    problem = problem or checks.folder_problem(ROOT, Path(tempfile.gettempdir()).resolve())
    if problem:
        raise LaunchError(problem)
    is_test = "--test" in arguments
    others = [argument for argument in arguments if argument not in OWN_FLAGS]
    if "--help" in others and not is_test:
        return show_help()
    open_log()
    stamp = set_up(is_test, "--repair" in arguments)
    if stamp["notice"]:
        LOG.info(stamp["notice"])
    elif not stamp["driver"] and shutil.which("nvidia-smi"):
        LOG.info("If an NVIDIA driver is new here: start once with --repair to use the GPU.")
    if is_test:
        return start(["-m", "pytest", *others], stamp, ROOT)
    LOG.info("Starting Nexusquant ...")
    code = start([ROOT / "app.py", *others], stamp)
    if code not in ASKED_TO_STOP:
        raise LaunchError(f"Nexusquant ended with an error (exit code {code}).")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run `launch` and turn what went wrong into one sentence and an exit code."""
    try:
        return launch(arguments)
    except (LaunchError, OSError) as error:
        LOG.debug("the start ended here", exc_info=error)
        log = f"The log is {LOG_FILE}\n" if LOG_FILE.exists() else ""
        sys.stderr.write(f"\n{error}\n{log}")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. The next start goes on from here.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
