"""A long run of generated hostile inputs; README says how to start it.

Knows the generators by name. Must not know what they generate.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
AREAS = ("web", "pdfs", "texts", "messages", "model_folders", "caches", "profiles")


def main() -> int:
    """Run so many attempts of each area; returns how many went wrong, 100 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("areas", nargs="*", default=AREAS, help=f"of {', '.join(AREAS)}; all")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other inputs")
    parser.add_argument("--count", type=int, default=200, help="inputs of each area")
    flags = parser.parse_args()
    num_wrong = sum(run_area(area, flags.seed, flags.count) for area in flags.areas or AREAS)
    sys.stdout.write(f"{num_wrong} went wrong\n")
    return min(num_wrong, 100)


def run_area(area: str, seed: int, count: int) -> int:
    """Run the attempts of one area and say how they ended.

    Args:
        area: One of `AREAS`.
        seed: Of everything that is drawn.
        count: Attempts.
    """
    generator, began, ended = importlib.import_module(area), time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for attempt in generator.attempts(random.Random(seed), count, Path(folder)):
            try:
                ended[attempt.run()] += 1
            # whatever it was is the finding
            except Exception as error:  # noqa: BLE001
                ended["wrong"] += 1
                sys.stdout.write(f"WRONG {area}: {attempt.name}\n")
                sys.stdout.write("".join(traceback.format_exception(error)[-3:]))
    took_s = time.monotonic() - began
    figures = ", ".join(f"{number} {how}" for how, number in sorted(ended.items()))
    sys.stdout.write(f"{area}: {figures}; {took_s:.0f} s\n")
    return ended["wrong"]


if __name__ == "__main__":
    folders = (HERE, HERE.parent / "ui", HERE.parent / "documents", HERE.parent, HERE.parents[1])
    sys.path[:0] = map(str, folders)
    sys.exit(main())
