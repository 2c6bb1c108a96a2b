"""Everything that is needed installs from wheels: on Windows nobody has a compiler at hand."""

from __future__ import annotations

import pytest
from wheel_resolution import REQUIREMENTS, TARGETS, complaint, complaints, index_problem

WINDOWS = TARGETS[0]


@pytest.fixture(scope="module", autouse=True)
def needs_an_index():
    problem = index_problem()
    if problem:
        pytest.skip(f"no package index answers: {' '.join(problem.split())}")


@pytest.fixture(scope="module")
def found():
    return complaints(REQUIREMENTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("target", TARGETS, ids=" ".join)
def test_every_pin_has_a_wheel(found, target):
    assert found[target] is None


def test_a_pin_without_a_wheel_is_named():
    # the one for Windows has another name
    pin = "triton==3.7.1"
    assert pin in complaint(pin, *WINDOWS)
    assert complaint(f"{pin} ; sys_platform == 'linux'", *WINDOWS) is None
