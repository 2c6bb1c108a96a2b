"""Scaled positions of one text: other rotations than the model's own, only while it is read.

Knows whose text it is and when its rotations are in force. How they are computed, transformers
knows. A model is shared by texts with other scalings and without one, so it is changed for the
length of a forward and no longer.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedConfig, PreTrainedModel

from nexusquant.cache import hf_compat, hf_rope
from nexusquant.config import RopeScaling, RopeScalingKind
from nexusquant.errors import CacheStateError, UnsupportedModelError


class ScaledRope:
    """The rotations of one text.

    Args:
        model: The model that reads it.
        scaling: How its positions are scaled; None leaves them as they are.

    Raises:
        UnsupportedModelError: The model's positions cannot be scaled.
    """

    def __init__(self, model: PreTrainedModel, scaling: RopeScaling | None) -> None:
        self.scaling, self._model = scaling, weakref.ref(model)
        if scaling is not None:
            if not can_be_scaled(model.config):
                raise UnsupportedModelError(
                    "This model's positions cannot be scaled: they are scaled already, or not "
                    "rotations."
                )
            self._frequencies, self._amplitude = hf_rope.scaled_frequencies(
                model, str(scaling.kind), scaling.factor
            )

    @property
    def label(self) -> str:
        """What tells texts with this scaling from others; empty without one."""
        return f" {self.scaling}" if self.scaling else ""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have the model rotate by these rotations inside `with`."""
        if self.scaling is None:
            yield
            return
        with hf_rope.rotating_by(self._model(), self._frequencies, self._amplitude):
            yield

    def check(self) -> None:
        """Make sure that the model rotates by these rotations right now.

        Raises:
            CacheStateError: It does not: new keys would not fit those that are held.
        """
        if self.scaling is None:
            return
        found = hf_rope.rope_frequencies(self._model())
        if found is None or found[0] is not self._frequencies:
            raise CacheStateError(
                f"This cache holds a text with scaled positions ({self.scaling}). Call the model "
                "inside `with cache.scaled_positions():`."
            )


def can_be_scaled(config: PreTrainedConfig) -> bool:
    """Whether the positions of a model of this config are rotations that nothing scales yet."""
    parameters = hf_rope.rope_parameters(config)
    return parameters is not None and parameters.get("rope_type") == "default"


def scalings_for(config: PreTrainedConfig, num_tokens: int) -> tuple[RopeScaling, ...]:
    """Scalings by which a model of this config could read so many tokens, best first.

    Args:
        config: Of the model.
        num_tokens: Tokens of the text, answer included.

    Returns:
        None of them where the text fits, or where positions cannot be scaled.
    """
    trained = hf_compat.trained_length(config)
    if not trained or num_tokens <= trained or not can_be_scaled(config):
        return ()
    return tuple(RopeScaling.for_length(num_tokens, trained, kind) for kind in RopeScalingKind)
