"""Asks uv whether every pin has a wheel, for systems that this one need not be.

Run it from anywhere: `python tests/wheel_resolution.py`. Knows uv; knows nothing of ours.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
PLATFORMS = ("x86_64-pc-windows-msvc", "x86_64-unknown-linux-gnu")
PYTHON_VERSIONS = ("3.10", "3.13")
TARGETS = tuple((platform, version) for platform in PLATFORMS for version in PYTHON_VERSIONS)

# a package that every index has: when not even this resolves, there is no index
_PROBE = "pip"
# connections break: those are tried again
_TRIES = 2
_FINAL = "No solution found"


def complaint(requirements: str, platform: str, python_version: str) -> str | None:
    """What uv says against installing `requirements` from wheels alone; None when it can.

    Args:
        requirements: The text of a requirements file.
        platform: One of uv's names, such as those of `PLATFORMS`.
        python_version: Such as "3.10"; it need not be installed.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "-"]
    command += ["--only-binary", ":all:", "--python-platform", platform]
    command += ["--python-version", python_version]
    for _ in range(_TRIES):
        done = subprocess.run(command, input=requirements, capture_output=True, encoding="utf-8")
        if done.returncode == 0:
            return None
        if _FINAL in done.stderr:
            break
    return done.stderr.strip()


def complaints(
    requirements: str, targets: Sequence[tuple[str, str]] = TARGETS
) -> dict[tuple[str, str], str | None]:
    """The `complaint` of each of `targets`, asked at the same time: uv mostly waits."""
    with ThreadPoolExecutor(len(targets)) as pool:
        found = pool.map(lambda target: complaint(requirements, *target), targets)
        return dict(zip(targets, found, strict=True))


def index_problem() -> str | None:
    """Why no package index answers; None when one does."""
    return complaint(_PROBE, *TARGETS[0])


def main() -> int:
    """Say for each target whether it can be installed; the number of those that cannot."""
    found = complaints(REQUIREMENTS.read_text(encoding="utf-8"))
    for (platform, version), text in found.items():
        print(f"{platform}, Python {version}: {text or 'every pin has a wheel'}")
    return sum(text is not None for text in found.values())


if __name__ == "__main__":
    sys.exit(main())
