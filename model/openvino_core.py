"""The process's OpenVINO runtime, shared by networks and locators."""

import sys
from functools import cache
from typing import Any

# bf16 and f16 are less accurate than f32, and slower on CPUs without AMX.
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


@cache
def openvino_core() -> Any:
    """Return the process's only `openvino.Core`, which is never freed.

    On CPUs with AMX, each Core sets a signal stack and restores the previous one when it is freed. In the wrong order,
    a freed stack remains set, and the next signal that Python handles kills the process.
    """
    # Importing openvino sends telemetry unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()
