"""Measures the CUDA engine of synthetic people and compares its pictures with the processor's; prints JSON.

Rehearse without a card: python scripts/gpu/render.py --simulate --size 16 --frames 1
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
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", action="store_true", help="run the kernels in Python, without a card; very slow")
    parser.add_argument("--size", type=int, default=160, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=450, help="of each shot, at most")
    parser.add_argument("--shots", type=int, default=1, help="how many videos")
    parser.add_argument("--at-once", type=int, default=64, help="frames that the card renders together")
    parser.add_argument("--repeats", type=int, default=3, help="how often a shot is rendered for its time")
    parser.add_argument("--compare", type=int, default=4, help="frames of each shot that the processor renders too")
    parser.add_argument("--seed", type=int, default=1, help="of the set of videos")
    return parser.parse_args(arguments)


def shorten(shot: "Shot", frames: int) -> "Shot":
    """Its first frames."""
    return replace(
        shot, transforms=shot.transforms[:frames], expressions=shot.expressions[:frames], cameras=shot.cameras[:frames]
    )


def measure(shot: "Shot", options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, frames a second and differences of one shot."""
    import numpy as np
    from numba import cuda

    from training.people.render import cpu
    from training.people.render.cuda import Renderer

    started = time.perf_counter()
    renderer = Renderer(shot, options.at_once)
    cuda.synchronize()
    sent = time.perf_counter()
    pictures = renderer.render()
    cuda.synchronize()
    first = time.perf_counter()
    for _ in range(options.repeats):
        renderer.render(out=pictures)
    cuda.synchronize()
    took_s = (time.perf_counter() - first) / max(options.repeats, 1)
    short = shorten(shot, options.compare)
    next(cpu.render(short))  # compiles
    began = time.perf_counter()
    expected = np.stack(list(cpu.render(short)))
    cpu_s = time.perf_counter() - began
    apart = np.abs(pictures.copy_to_host()[: len(expected)].astype(int) - expected)
    return {
        "frames": len(shot),
        "triangles": len(shot.mesh.faces),
        "upload_s": round(sent - started, 4),
        "first_render_s": round(first - sent, 3),  # compiles
        "fps": round(len(shot) / took_s, 1) if options.repeats else None,
        "cpu_fps": round(len(expected) / cpu_s, 1),
        "difference": {"mean": float(apart.mean()), "max": int(apart.max()), "over_8": float((apart > 8).mean())},
        "shared_with_torch": shares_with_torch(pictures) if not options.simulate else None,
    }


def shares_with_torch(pictures: Any) -> bool | None:
    """Whether PyTorch takes the pictures without a copy; None where there is no PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    pointer = pictures.__cuda_array_interface__["data"][0]
    return bool(torch.as_tensor(pictures, device="cuda").data_ptr() == pointer)


def device_name(simulated: bool) -> str:
    """Of the card."""
    from numba import cuda

    if simulated:
        return "simulator"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def main(arguments: list[str]) -> None:
    """Render some videos of a set and print what was measured."""
    options = parse(arguments)
    if options.simulate:  # before Numba is imported; functions of the processor have to be Python, too
        os.environ.update(NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")
        options.repeats = min(options.repeats, 0)
    sys.path.insert(0, str(ROOT))
    from numba import cuda

    if not cuda.is_available():
        raise SystemExit("Numba finds no CUDA card; add --simulate to rehearse without one")
    from training.people.body import load_anatomy
    from training.people.film import Recipe, make_film

    recipe = Recipe(seed=options.seed, height=options.size, width=options.size)
    films = [make_film(recipe, number, load_anatomy()) for number in range(options.shots)]
    results = [measure(shorten(film.shot, options.frames), options) for film in films]
    sys.stdout.write(
        json.dumps({"device": device_name(options.simulate), "size": options.size, "shots": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
