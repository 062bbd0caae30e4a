"""Where compiled kernels are kept, and how they are compiled. Import it before anything is compiled.

Numba keeps machine code on disk and looks only at the file of the function itself to see whether it is stale; kernels
call functions of several files. So each state of these files has a folder of its own.
"""

import hashlib
import shutil
from pathlib import Path

import numba as nb

_HERE = Path(__file__).parent
_KEPT = "kernels-"


def _folder() -> Path:
    """For the code as it is now; those of other states are removed."""
    digest = hashlib.sha256()
    for code in (path.read_bytes() for path in sorted(_HERE.glob("*.py"))):
        if b"numba" in code or b"compiled" in code:
            digest.update(code)
    folder = _HERE / "__pycache__" / f"{_KEPT}{digest.hexdigest()[:12]}"
    for stale in folder.parent.glob(f"{_KEPT}*"):
        if stale != folder:
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def _keep_code() -> None:
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only installation: numba finds a place of its own
        return
    nb.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


_keep_code()

# Without counts of references to arrays, millions of which would be a third of the time; for what makes no array.
kernel = nb.njit(cache=True, _nrt=False)  # type: ignore[call-overload]
