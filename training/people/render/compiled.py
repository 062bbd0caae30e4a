"""Numba's cache folder and the decorator for CPU kernels. Import this module before anything is compiled.

Numba invalidates a function's cached machine code only when the function's own file changes, but kernels inline
functions of several files. Therefore each version of these files gets its own cache folder.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numba as nb

_HERE = Path(__file__).parent.parent
_CACHE_PREFIX = "kernels-"


def _digest() -> str:
    """Hash the source files that are compiled."""
    digest = hashlib.sha256()
    for code in (path.read_bytes() for path in sorted(_HERE.rglob("*.py"))):
        if b"numba" in code or b"compiled" in code:
            digest.update(code)
    return digest.hexdigest()[:12]


def _set_cache_folder() -> None:
    """Use a folder beside the code, or in the temporary folder if that is read-only; delete stale caches."""
    name = f"{_CACHE_PREFIX}{_digest()}"
    for parent in (_HERE / "__pycache__", Path(tempfile.gettempdir()) / f"mmad-{os.getuid()}"):
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            (parent / name).mkdir(exist_ok=True)
            (parent / name / "probe").touch()
        except OSError:
            continue
        if parent.stat().st_uid != os.getuid():  # never run machine code written by another user
            continue
        nb.config.CACHE_DIR = str(parent / name)  # type: ignore[attr-defined]
        for stale in parent.glob(f"{_CACHE_PREFIX}*"):
            if stale.name != name:
                shutil.rmtree(stale, ignore_errors=True)
        return


_set_cache_folder()

# Without reference counting (a third of the time otherwise): a kernel must not allocate arrays.
kernel = nb.njit(cache=True, _nrt=False)  # type: ignore[call-overload]
