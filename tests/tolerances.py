"""How far numbers may be apart. Knows tensors only."""

from __future__ import annotations

import torch

# float32 results of the same sums in another order
SAME_SUM = {"rtol": 2e-4, "atol": 2e-5}


def error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean squared difference, in float64."""
    return float((actual.double() - exact.double()).square().mean().sqrt())


def assert_at_most_twice_the_error(
    actual: torch.Tensor, same_dtype: torch.Tensor, exact: torch.Tensor
) -> None:
    """`actual` may be at most twice as far from `exact` as plain torch in the same type is."""
    assert actual.dtype == same_dtype.dtype
    assert bool(actual.isfinite().all())
    assert error(actual, exact) <= 2 * error(same_dtype, exact)
