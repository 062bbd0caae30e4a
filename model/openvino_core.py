"""OpenVINO's runtime: one for the process, for networks and locators."""

import sys
from functools import cache
from typing import Any

# bf16 and f16 are slower than f32 on CPUs without AMX, and less exact.
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


@cache
def openvino_core() -> Any:
    """The process's only `openvino.Core`, which is never freed.

    On CPUs with AMX each Core sets a signal stack (sigaltstack) and puts the one before it back when it is freed. Cores
    freed in the order of their creation leave a freed stack behind, and the next signal that Python handles kills the
    process: Ctrl-C, or a worker of PyTorch's DataLoader that ends.
    """
    # Importing openvino reports to its makers over the internet, unless this package cannot be found.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()
