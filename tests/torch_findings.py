"""What the launcher may find about torch and the GPU on some machine."""

from __future__ import annotations

NEW_CARDS_ONLY = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def gpu(**changes) -> dict:
    """Return what `describe_torch` finds on a machine where all is well, with changes."""
    good = {"version": "2.13.0+cu130", "cuda": "13.0", "available": True, "reason": ""}
    card = {"name": "Old Card", "arches": NEW_CARDS_ONLY, "capability": [8, 6]}
    return {**good, **card, **changes}
