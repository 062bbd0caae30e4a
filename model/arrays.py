"""Types of NumPy arrays; docstrings give their shapes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Images = NDArray[np.uint8]  # (n, height, width, 3) RGB
Frame = NDArray[np.uint8]  # (height, width, 3) RGB
