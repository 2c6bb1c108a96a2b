from __future__ import annotations

from compiling import compile_for, each_capability

from nexusquant.kernels.triton_probe import double_kernel


@each_capability
def test_the_probe_compiles_without_a_gpu(capability):
    signature = {"numbers": "*i32", "doubled": "*i32", "count": "i32"}
    resources = compile_for(double_kernel, capability, signature, {"BLOCK": 64})
    assert resources.spilled_bytes == 0
    assert resources.registers > 0
