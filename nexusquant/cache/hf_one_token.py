"""The part of `hf_compat` that has a model take one token by fewer kernels.

Transformers writes norms, rotations and gates as many small steps, each of which is a kernel of its
own; for one token, starting them takes longer than the work. What stands in for them here is
compared first with the model's own, kind by kind, and left out where it gives something else.
Nothing is replaced but inside `in_force`. Tested with transformers 5.17 and 5.23.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import nn
from transformers import PreTrainedModel

from nexusquant.kernels import gated_one, linear_one, norm_one, projections_one, rotate_one

_ROTATION = "apply_rotary_pos_emb"
_LARGEST_DIFFERENCE = 2**-7
"""Of two results, as a share of them: they may be rounded in other places."""
_HALF_TYPES = (torch.float16, torch.bfloat16)

Forward = Callable[[torch.Tensor], torch.Tensor]


class OneTokenForwards:
    """What stands in for a model's modules and functions while it takes one token.

    Args:
        model: The model, with its weights where they stay.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel) -> None:
        self._forwards: dict[nn.Module, Forward] = {}
        self._rotations: list[tuple[ModuleType, Callable, Callable]] = []
        known: dict[object, bool] = {}
        for module in model.modules():
            made = {} if module in self._forwards else _made_for(module)
            if not made:
                continue
            kind = (type(module), *(weight.dtype for weight in module.parameters()))
            if kind not in known:
                known[kind] = _agree(made)
            if known[kind]:
                self._forwards |= made
        for home in _homes_of_rotations(model):
            own = getattr(home, _ROTATION)
            rotate = _rotation_like(own)
            if _rotates_alike(own, rotate, model):
                self._rotations.append((home, own, rotate))

    @property
    def num_replaced(self) -> int:
        """Modules and functions that something else stands in for."""
        return len(self._forwards) + len(self._rotations)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Replace them. More tokens than one still go the model's own way, but for norms."""
        # hooks may have come since, and another thread may be here already
        replaced = [pair for pair in self._forwards.items() if "forward" not in vars(pair[0])]
        for module, forward in replaced:
            module.forward = forward
        for home, _, rotate in self._rotations:
            setattr(home, _ROTATION, rotate)
        try:
            yield
        finally:
            for module, _ in replaced:
                vars(module).pop("forward", None)
            for home, own, _ in self._rotations:
                setattr(home, _ROTATION, own)


def _made_for(module: nn.Module) -> dict[nn.Module, Forward]:
    """Forwards that do what a module of its kind, or parts of it, are likely to do."""
    if "forward" in vars(module):
        # a hook that moves weights stands there
        return {}
    if _is_plain_linear(module):
        return {module: _linear_like(module)}
    if type(module).__name__.endswith("RMSNorm") and _eps_of(module) is not None:
        return {module: _norm_like(module)}
    if _is_gated(module):
        return {module: _gated_like(module)}
    parts = [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    return _Projections(parts).forwards() if _are_alike(parts) else {}


def _is_plain_linear(module: object) -> bool:
    # narrower weights have a class of their own, and kernels of their own
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    return weight.dtype in _HALF_TYPES and weight.is_contiguous() and not weight.is_meta


def _are_alike(parts: Sequence[nn.Module | None]) -> bool:
    """Whether they are plain and take the same vector, all with a bias or all without one."""
    if not all(map(_is_plain_linear, parts)):
        return False
    kinds = {(p.in_features, p.weight.dtype, p.weight.device, p.bias is None) for p in parts}
    return len(kinds) == 1


def _is_gated(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj")]
    return (
        all(_is_plain_linear(part) and part.bias is None for part in parts)
        and hasattr(module, "down_proj")
        and type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
    )


def _is_bare(part: nn.Module) -> bool:
    """Whether a part is still what was looked at: adapters and hooks may have come since."""
    return type(part) is nn.Linear and not part._forward_hooks and not part._forward_pre_hooks


def _eps_of(module: nn.Module) -> float | None:
    """What a norm adds to the mean square; None if it is not of the kind that is known."""
    weights = dict(module.named_parameters())
    if list(weights) != ["weight"] or weights["weight"].dim() != 1:
        return None
    return getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)


def _linear_like(module: nn.Linear) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if _is_one(x, module.weight):
            return linear_one(x, module.weight, module.bias)
        return type(module).forward(module, x)

    return forward


class _Projections:
    """What makes a token's query, key and value of one vector, by one kernel.

    The first of the three does the work of all, and the others find it done.
    """

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self._modules = modules
        # the vector, which must be the very same, and what became of it
        self._done: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def forwards(self) -> dict[nn.Module, Forward]:
        """What stands in for each."""
        first, *others = self._modules
        forwards = {other: self._find(i, _linear_like(other)) for i, other in enumerate(others, 1)}
        return {first: self._make(_linear_like(first)), **forwards}

    def _make(self, alone: Forward) -> Forward:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if not all(_is_one(x, module.weight) for module in self._modules):
                return alone(x)
            parts = [(module.weight, module.bias) for module in self._modules]
            made = projections_one(x, *zip(*parts, strict=True))
            self._done = (x, made)
            return made[0]

        return forward

    def _find(self, index: int, alone: Forward) -> Forward:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if self._done is None or self._done[0] is not x:
                return alone(x)
            made = self._done[1][index]
            if index == len(self._modules) - 1:
                self._done = None
            return made

        return forward


def _norm_like(module: nn.Module) -> Forward:
    eps = _eps_of(module)

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight = module.weight
        if x.dtype == weight.dtype and x.is_contiguous() and x.shape[-1] == weight.shape[0]:
            return norm_one(x, weight, eps)
        return type(module).forward(module, x)

    return forward


def _gated_like(module: nn.Module) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        parts = (module.gate_proj, module.up_proj)
        if all(map(_is_bare, parts)) and _is_one(x, module.gate_proj.weight):
            return module.down_proj(gated_one(x, module.gate_proj.weight, module.up_proj.weight))
        return type(module).forward(module, x)

    return forward


def _is_one(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return x.numel() == weight.shape[1] and x.dtype == weight.dtype and x.is_contiguous()


def _agree(made: dict[nn.Module, Forward]) -> bool:
    weight = next(next(iter(made)).parameters())
    # of all weights that come first, a vector has as many values as a row
    x = _sample(1, 1, weight.shape[-1], like=weight)
    try:
        return all(_are_near(module(x), forward(x)) for module, forward in made.items())
    except (RuntimeError, TypeError, ValueError):
        # one that takes something else
        return False


def _homes_of_rotations(model: PreTrainedModel) -> list[ModuleType]:
    """Python modules whose attention calls the function that turns queries and keys."""
    classes = {type(m) for m in model.modules() if isinstance(getattr(m, "layer_idx", None), int)}
    names = sorted({one.__module__ for one in classes})
    return [sys.modules[name] for name in names if hasattr(sys.modules[name], _ROTATION)]


def _rotation_like(own: Callable) -> Callable:
    def rotate(
        query: torch.Tensor,
        key: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *args: object,
        **options: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not args and not options and _is_one_token(query, key, cos, sin):
            return rotate_one(query, key, cos, sin)
        return own(query, key, cos, sin, *args, **options)

    return rotate


def _is_one_token(query: torch.Tensor, key: torch.Tensor, *angles: torch.Tensor) -> bool:
    dtype, shape = query.dtype, (1, 1, angles[0].shape[-1])
    return (
        all(x.dim() == 4 and x.shape[0] == x.shape[2] == x.stride(3) == 1 for x in (query, key))
        and all(table.shape == shape and table.is_contiguous() for table in angles)
        and all(x.dtype == dtype for x in (key, *angles))
        and shape[2] <= query.shape[3]
    )


def _rotates_alike(own: Callable, rotate: Callable, model: PreTrainedModel) -> bool:
    """Compare two rotations of a token as wide as the model's, by any angles."""
    weight = next(model.parameters())
    config = model.config.get_text_config(decoder=True)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1)
    turned = round(dim * share)
    query, key = (_sample(1, 2, 1, dim, like=weight) for _ in range(2))
    angles = _sample(1, 1, turned // 2, like=weight).float().repeat(1, 1, 2)
    given = (query, key, angles.cos().to(weight.dtype), angles.sin().to(weight.dtype))
    try:
        pairs = zip(own(*given), rotate(*given), strict=True)
        return all(_are_near(one, other) for one, other in pairs)
    except (RuntimeError, TypeError, ValueError):
        # a function of that name that takes something else
        return False


def _sample(*shape: int, like: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _are_near(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    difference = (one.float() - other.float()).norm()
    return bool(difference <= _LARGEST_DIFFERENCE * one.float().norm())
