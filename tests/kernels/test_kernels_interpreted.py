from __future__ import annotations

import pytest
from interpreting import HERE, run_interpreted

pytest.importorskip("triton")

NAMES = sorted(path.name for path in HERE.glob("interpreted_*.py"))


def test_kernels_in_the_interpreter_equal_their_references():
    done = run_interpreted(*NAMES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
