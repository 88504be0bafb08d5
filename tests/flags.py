"""XLA's flags for the tests: programs that are compiled quickly, not ones that run quickly.

Compiling is most of what the tests take. Without LLVM's optimisations, with one LLVM module for
each program and with the earlier code generator (JAX 0.10 has both) it takes a third of the time.
The flags concern the code that is made of a program; the passes that rewrite the program itself
and that cut it for several devices are those that users get. Programs are compiled as users compile
them in modules with the mark ``optimized``, which are about last bits, and everywhere with
SPARSEJAX_TEST_OPTIMIZED.
"""

import os
from importlib.metadata import version

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

USUAL = {"xla_backend_optimization_level": 3, "xla_cpu_parallel_codegen_split_count": 32}
"""What XLA takes for the flags by default."""

_GIVEN = os.environ.get("XLA_FLAGS", "").replace(EIGHT_DEVICES, "")  # pytest's workers inherit it
_QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib") < "0.11":  # later versions have one code generator, and refuse the flag
    USUAL["xla_cpu_use_fusion_emitters"] = True
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")


def for_commands() -> str:
    """The flags of a process with one device: XLA takes the last of those that contradict."""
    if os.environ.get("SPARSEJAX_TEST_OPTIMIZED"):
        return _GIVEN
    return f"{' '.join(_QUICK)} {_GIVEN}"
