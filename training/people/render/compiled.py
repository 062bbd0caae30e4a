"""Where compiled kernels are kept, and how they are compiled. Import it before anything is compiled.

Numba keeps machine code on disk and looks only at the file of the function itself to see whether it is stale; kernels
call functions of several files. So each state of these files has a folder of its own.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numba as nb

_HERE = Path(__file__).parent.parent
_KEPT = "kernels-"


def _digest() -> str:
    """Of the code that is compiled."""
    digest = hashlib.sha256()
    for code in (path.read_bytes() for path in sorted(_HERE.rglob("*.py"))):
        if b"numba" in code or b"compiled" in code:
            digest.update(code)
    return digest.hexdigest()[:12]


def _keep_code() -> None:
    """Beside the code, or, where that cannot be written, in the temporary folder; code of other states goes."""
    name = f"{_KEPT}{_digest()}"
    for parent in (_HERE / "__pycache__", Path(tempfile.gettempdir()) / f"mmad-{os.getuid()}"):
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            (parent / name).mkdir(exist_ok=True)
            (parent / name / "probe").touch()
        except OSError:
            continue
        if parent.stat().st_uid != os.getuid():  # compiled code of others is not run
            continue
        nb.config.CACHE_DIR = str(parent / name)  # type: ignore[attr-defined]
        for stale in parent.glob(f"{_KEPT}*"):
            if stale.name != name:
                shutil.rmtree(stale, ignore_errors=True)
        return


_keep_code()

# Without counts of references to arrays, millions of which would be a third of the time; for what makes no array.
kernel = nb.njit(cache=True, _nrt=False)  # type: ignore[call-overload]
