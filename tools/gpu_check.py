"""What a GPU shows beyond `doctor --report`: `python tools/gpu_check.py [--work DIR] [--only sd-1.5 …]`.

Writes models of real size with random weights (up to 10 GB, one at a time), and measures on the device at
hand: seconds a step, memory beside the plan, time until a cancel takes effect, and each decision of
`swiftai_nb.diffusion.gpu` on and off. Prints Markdown tables for docs/performance.md. About ten minutes on a
data-center GPU; `--only bundled` tries the script itself on any machine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import mlx.core as mx  # noqa: E402

import swiftai_nb  # noqa: E402
from benchmarks.memory_models import WRITERS, snapshot  # noqa: E402
from swiftai_nb.diffusion import gpu, load_pipeline, ops  # noqa: E402
from swiftai_nb.engine.child.serve import translate_error  # noqa: E402
from swiftai_nb.engine.kernel.memory_plan import plan_memory  # noqa: E402
from swiftai_nb.engine.kernel.report import write_report  # noqa: E402
from swiftai_nb.model_files.folder import open_model  # noqa: E402

MIB, GIB = 2**20, 2**30
STEPS = 3
CANCEL_AFTER_S = 1.0
# Model -> sides to draw at.
SIDES = {
    "bundled": (256,), "sd-1.5": (512, 1024), "sdxl-turbo": (1024,), "flux-schnell-4bit": (1024,),
    "z-image": (1024,), "flux.2-klein-4bit": (1024,),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One picture's figures; times in seconds."""

    load_s: float
    step_s: float
    decode_s: float
    peak_bytes: int


def draw(folder: Path, side: int) -> Run:
    """Draws a picture; the first step, which compiles kernels, is not counted."""
    mx.reset_peak_memory()
    started_s = time.perf_counter()
    pipeline = load_pipeline(folder)
    for component in pipeline.networks.values():
        _ = component.network
    loaded_s = time.perf_counter()
    step_s = [now - before for before, now in pairwise(_step_times(pipeline, side))]
    latents = _last_latents
    decoding_s = time.perf_counter()
    pipeline.decode(latents)
    decode_s = time.perf_counter() - decoding_s
    return Run(loaded_s - started_s, min(step_s[1:]), decode_s, mx.get_peak_memory())


_last_latents: Any = None


def _step_times(pipeline: Any, side: int, steps: int = STEPS) -> Iterator[float]:
    global _last_latents  # noqa: PLW0603 - a script
    conditioning = pipeline.encode_prompt("a red fox", guidance_scale=pipeline.defaults.guidance_scale)
    yield time.perf_counter()
    for step in pipeline.denoise(conditioning, width=side, height=side, steps=steps, seed=1):
        _last_latents = step.latents
        yield time.perf_counter()


def pairwise(times: Iterator[float]) -> Iterator[tuple[float, float]]:
    """(a, b), (b, c), … (itertools.pairwise)."""
    before = next(times)
    for now in times:
        yield before, now
        before = now


def cancel_s(folder: Path, side: int) -> float:
    """Seconds between a cancel in the middle of the steps and its effect."""
    pipeline = load_pipeline(folder)
    asked_s = time.perf_counter() + 10**9

    def callback() -> None:
        if time.perf_counter() > asked_s:
            raise KeyboardInterrupt

    conditioning = pipeline.encode_prompt("a red fox", guidance_scale=pipeline.defaults.guidance_scale)
    ops.set_block_callback(callback)
    try:
        for step in pipeline.denoise(conditioning, width=side, height=side, steps=50, seed=1):
            if step.index == 0:
                asked_s = time.perf_counter() + CANCEL_AFTER_S
            callback()
    except KeyboardInterrupt:
        return time.perf_counter() - asked_s
    finally:
        ops.set_block_callback(None)
    return float("nan")  # the picture was done before


@contextmanager
def without_pauses() -> Iterator[None]:
    """No evaluation within a step."""
    original = gpu.WorkPace.is_due
    gpu.WorkPace.is_due = lambda _: False  # type: ignore[method-assign]
    yield
    gpu.WorkPace.is_due = original  # type: ignore[method-assign]


@contextmanager
def without_filling() -> Iterator[None]:
    """Heads as wide as the model has them."""
    original = ops.head_filling
    ops.head_filling = lambda _: 0
    yield
    ops.head_filling = original


@contextmanager
def without_fusion() -> Iterator[None]:
    """Element-wise operations one by one."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@contextmanager
def cache_of(limit_bytes: int) -> Iterator[None]:
    """Another limit for freed arrays."""
    before = mx.set_cache_limit(limit_bytes)
    yield
    mx.set_cache_limit(before)
    mx.clear_cache()


SWITCHES = {
    "as it is": lambda: cache_of(gpu.memory_policy().cache_limit_bytes),
    "no evaluation within a step": without_pauses,
    "heads not filled": without_filling,
    "not fused": without_fusion,
    "cache of 256 MiB": lambda: cache_of(256 * MIB),
    "cache of 1 GiB": lambda: cache_of(GIB),
    "cache without limit": lambda: cache_of(2**62),
}


def planned_bytes(folder: Path, side: int) -> int:
    """The plan of the kernel for this picture."""
    model = open_model(folder, prefer_half=not gpu.on_cpu())
    guided = model.family.is_guided(model.defaults.guidance_scale)
    plan = plan_memory(
        model, width=side, height=side, guided=guided, bytes_per_weight=4 if gpu.on_cpu() else 2,
        policy=gpu.memory_policy(),
    )  # fmt: skip
    return plan.peak_bytes


def out_of_memory() -> str:
    """What the device says when memory runs out, as the engine translates it; not tried on a CPU."""
    if gpu.on_cpu():
        return "not tried on a CPU"
    try:
        mx.eval(mx.zeros((2**20, 2**20), dtype=mx.uint8))
    except Exception as error:  # noqa: BLE001 - any error is the answer
        return f"{type(translate_error(error)).__name__}: {str(error)[:160]}"
    return "no error"


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/gpu-check"))
    parser.add_argument(
        "--only", nargs="+", choices=list(SIDES), default=[name for name in SIDES if name != "bundled"]
    )
    options = parser.parse_args()
    write_report(sys.stdout)
    print("\n| model | side | load s | s a step | decode s | planned | measured | cancel s |")
    print("|---|---|---|---|---|---|---|---|")
    switched = []
    for name in options.only:
        folder = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini"
        if name != "bundled":
            folder = snapshot(options.work / "hub", name)
            WRITERS[name](folder)
        for side in SIDES[name]:
            run = draw(folder, side)
            planned, cancelled_s = planned_bytes(folder, side), cancel_s(folder, side)
            print(
                f"| {name} | {side} | {run.load_s:.1f} | {run.step_s:.3f} | {run.decode_s:.2f} | "
                f"{planned / 1e9:.2f} GB | {run.peak_bytes / 1e9:.2f} GB | {cancelled_s:.2f} |",
                flush=True,
            )
        for switch, context in SWITCHES.items():
            with context():
                run = draw(folder, SIDES[name][0])
            switched.append(f"| {name} | {switch} | {run.step_s:.3f} | {run.peak_bytes / 1e9:.2f} GB |")
        if name != "bundled":
            shutil.rmtree(folder)
    print("\n| model | switch | s a step | peak |\n|---|---|---|---|")
    print("\n".join(switched))
    print(f"\nOut of memory: {out_of_memory()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
