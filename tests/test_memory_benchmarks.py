"""What the benchmarks of memory do before a GPU is asked."""

from __future__ import annotations

import pytest
from memory import CAP_STEP, least_cap
from memory_plan import SHAPES, config_of

from nexusquant.cache import layer_shapes

MIB = 2**20


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_with_fewer_layers_is_a_whole_config(shape: str) -> None:
    for num_layers in (1, 8, None):
        config = config_of(shape, num_layers)
        assert len(layer_shapes(config)) == (num_layers or SHAPES[shape].num_hidden_layers)
    assert config_of(shape, 8).num_hidden_layers == 8
    assert SHAPES[shape].num_hidden_layers > 8


@pytest.mark.parametrize("needed", [6500, 6501, 6700, 6999, 7000])
def test_the_least_cap_is_found_to_a_step(needed: int) -> None:
    asked = []

    def fits(cap: int) -> bool:
        asked.append(cap)
        return cap >= needed * MIB

    found = least_cap(fits, 6500 * MIB, 7000 * MIB)
    assert needed * MIB <= found < needed * MIB + CAP_STEP
    assert len(asked) <= 6
