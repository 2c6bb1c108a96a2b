"""Coders like those of models, and what it means that two codings are the same. Knows no kernel."""

from __future__ import annotations

import torch

from nexusquant.lattice import (
    E8Quantizer,
    PackedVectors,
    Pairing,
    Rotary,
    RotarySegment,
    fit_key_basis,
    key_quantizer,
    share_bits,
)

SAME_ERROR = 1e-4
"""How far the errors of two codings of one vector, relative to it, are apart at a tie."""


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def key_coder(num_heads: int, dim: int, bits: float = 2.0, device: str = "cpu") -> E8Quantizer:
    """A basis for each head, a large mean, and widths from 0 to 6 bits as `share_bits` gives."""
    mixing = gaussian(num_heads, dim, dim, seed=1) * 2 ** -(torch.arange(dim) * 12 / dim)
    basis = fit_key_basis(
        3 * gaussian(num_heads, dim, seed=2),
        mixing @ mixing.mT,
        torch.eye(dim).expand(num_heads, -1, -1),
    )
    return key_quantizer(basis, share_bits([basis.variances], bits)[0]).to(device)


def keys_of(coder: E8Quantizer, num_vectors: int, seed: int = 3) -> torch.Tensor:
    """Vectors that spread as the coder expects. [H, N, D], float32, on the CPU."""
    mixing = gaussian(coder.basis.shape[0], coder.dim, coder.dim, seed=1)
    mixing = mixing * 2 ** -(torch.arange(coder.dim) * 12 / coder.dim)
    noise = gaussian(coder.basis.shape[0], num_vectors, coder.dim, seed=seed)
    return noise @ mixing.mT + coder.mean.cpu()


def rotary_of(
    rotary_dim: int, scaling: float = 1.0, num_segments: int = 1, device: str = "cpu"
) -> Rotary:
    exponents = torch.arange(rotary_dim // 2, device=device) * 2 / rotary_dim
    frequencies = 10_000.0**-exponents
    segments = [RotarySegment(100 * n, frequencies / (n + 1)) for n in range(num_segments)]
    return Rotary(segments, scaling)


def bare(
    vectors: torch.Tensor, positions: torch.Tensor, rotary: Rotary | None, pairing: Pairing
) -> torch.Tensor:
    """Vectors without their rotation, in float32."""
    vectors = vectors.float()
    return vectors if rotary is None else rotary.take_off(vectors, positions, pairing)


def assert_same_codes(
    coder: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None,
    actual: PackedVectors,
    expected: PackedVectors,
    most_ties: float = 0.02,
    most_jumps: float = 0.0,
) -> None:
    """Bytes are the same but for few vectors, which lie between two codes: their error is the same.

    Args:
        coder: What codes mean.
        vectors: What was coded, without rotation. [H, N, D].
        positions: Those that were given.
        actual: Codes to judge.
        expected: Those of the reference.
        most_ties: Largest share of vectors whose bytes may differ.
        most_jumps: Largest share of vectors whose error may differ: one whose scale lies between
            two steps of `round_scale` is coded at the other.
    """
    is_same = (actual.codes == expected.codes).all(dim=-1) & (actual.scales == expected.scales)
    assert (~is_same).sum() <= most_ties * is_same.numel()
    errors = [weighted_errors(coder, vectors, positions, packed) for packed in (actual, expected)]
    differences = (errors[0] - errors[1]).abs()
    assert (differences > SAME_ERROR).sum() <= most_jumps * is_same.numel()
    torch.testing.assert_close(errors[0].mean(), errors[1].mean(), rtol=1e-3, atol=0)


def weighted_errors(
    coder: E8Quantizer, vectors: torch.Tensor, positions: torch.Tensor | None, packed: PackedVectors
) -> torch.Tensor:
    """Squared error of the stored coordinates over their energy, weighted by the gains. [H, N]."""
    points, scales = coder.decode_points(packed, torch.float64, positions)
    centred = vectors.double() - (0 if coder.mean is None else coder.mean.double())
    weights = coder.gains.double().repeat_interleave(8, dim=-1)[..., None, : coder.num_coded]
    exact = centred @ coder.encoder.double() * weights
    coded = points * scales.unsqueeze(-1) * weights
    energy = exact.square().sum(dim=-1).clamp(min=1e-30)
    return (coded - exact).square().sum(dim=-1) / energy
