from __future__ import annotations

import pytest
from interpreting import HERE, run_interpreted

pytest.importorskip("triton")

FILES = sorted(path.name for path in HERE.glob("interpreted_*.py"))


@pytest.mark.parametrize("name", FILES)
def test_kernels_in_the_interpreter_equal_their_references(name):
    done = run_interpreted(name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_wrong_result_in_the_interpreter_is_noticed(tmp_path):
    wrong = tmp_path / "interpreted_wrong.py"
    wrong.write_text(
        "import torch\n"
        "from nexusquant.kernels.triton_probe import double\n"
        "def test_wrong():\n"
        "    numbers = torch.ones(3, dtype=torch.int32)\n"
        "    assert double(numbers).tolist() == [3, 3, 3]\n"
    )
    done = run_interpreted(wrong)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
