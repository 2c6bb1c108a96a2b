"""Runs test files in Triton's interpreter. Knows pytest's command line, and no kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run_interpreted(*names: str) -> subprocess.CompletedProcess[str]:
    """Run the tests in these files of `tests/kernels` with kernels interpreted on the CPU.

    Triton decides when it is imported whether its functions are compiled or interpreted, so
    these tests need a process of their own. It takes seconds to start: one is for all files. To
    run one file by hand: `TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted_NAME.py`.
    """
    files = [HERE / name for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=HERE.parent.parent, env=environment, capture_output=True, text=True
    )
