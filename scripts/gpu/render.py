"""Measure the CUDA renderer of synthetic people and compare its frames with the CPU renderer's; prints JSON.

Test it without a GPU: python scripts/gpu/render.py --simulate --size 16 --frames 1
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.people.render.shot import Shot

ROOT = Path(__file__).resolve().parents[2]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", action="store_true", help="run the kernels in Python, without a GPU; very slow")
    parser.add_argument("--size", type=int, default=160, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=450, help="maximum frames of each video")
    parser.add_argument("--shots", type=int, default=1, help="number of videos")
    parser.add_argument("--at-once", type=int, default=64, help="frames rendered at once")
    parser.add_argument("--repeats", type=int, default=3, help="measured renderings of each video")
    parser.add_argument("--compare", type=int, default=4, help="frames of each video to compare with the CPU's")
    parser.add_argument("--seed", type=int, default=1, help="seed of the set of videos")
    return parser.parse_args(arguments)


def shorten(shot: "Shot", frames: int) -> "Shot":
    """Return the first frames of a shot."""
    return replace(
        shot, transforms=shot.transforms[:frames], expressions=shot.expressions[:frames], cameras=shot.cameras[:frames]
    )


def measure(shot: "Shot", options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, frames per second and differences of one shot."""
    import numpy as np
    from numba import cuda

    from training.people.render import cpu
    from training.people.render.cuda import Renderer

    start_s = time.perf_counter()
    renderer = Renderer(shot, options.at_once)
    cuda.synchronize()
    uploaded_s = time.perf_counter()
    frames = renderer.render()  # compiles
    cuda.synchronize()
    compiled_s = time.perf_counter()
    for _ in range(options.repeats):
        renderer.render(out=frames)
    cuda.synchronize()
    render_s = (time.perf_counter() - compiled_s) / max(options.repeats, 1)
    short = shorten(shot, options.compare)
    next(cpu.render(short))  # compiles
    cpu_start_s = time.perf_counter()
    expected = np.stack(list(cpu.render(short)))
    cpu_s = time.perf_counter() - cpu_start_s
    difference = np.abs(frames.copy_to_host()[: len(expected)].astype(int) - expected)
    return {
        "frames": len(shot),
        "triangles": len(shot.mesh.faces),
        "upload_s": round(uploaded_s - start_s, 4),
        "first_render_s": round(compiled_s - uploaded_s, 3),
        "fps": round(len(shot) / render_s, 1) if options.repeats else None,
        "cpu_fps": round(len(expected) / cpu_s, 1),
        "difference": {
            "mean": float(difference.mean()),
            "max": int(difference.max()),
            "over_8": float((difference > 8).mean()),
        },
        "shared_with_torch": shares_with_torch(frames) if not options.simulate else None,
    }


def shares_with_torch(frames: Any) -> bool | None:
    """Return whether PyTorch can use the frames without a copy; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    pointer = frames.__cuda_array_interface__["data"][0]
    return bool(torch.as_tensor(frames, device="cuda").data_ptr() == pointer)


def device_name(simulated: bool) -> str:
    """Return the name of the GPU."""
    from numba import cuda

    if simulated:
        return "simulator"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def main(arguments: list[str]) -> None:
    """Render some videos of a set and print the measurements."""
    options = parse(arguments)
    if options.simulate:  # before Numba is imported; the CPU functions have to be Python, too
        os.environ.update(NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")
        options.repeats = min(options.repeats, 0)
    sys.path.insert(0, str(ROOT))
    from numba import cuda

    if not cuda.is_available():
        raise SystemExit("Numba finds no CUDA device; add --simulate to run without one")
    from training.people.body import load_anatomy
    from training.people.film import Recipe, make_film

    recipe = Recipe(seed=options.seed, height=options.size, width=options.size)
    films = [make_film(recipe, number, load_anatomy()) for number in range(options.shots)]
    results = [measure(shorten(film.shot, options.frames), options) for film in films]
    print(json.dumps({"device": device_name(options.simulate), "size": options.size, "shots": results}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
