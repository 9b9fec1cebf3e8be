"""What reading the stop flag costs: the kernels with it and compiled without it, in turns."""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

from swiftai_nb.core import cpu_kernels
from swiftai_nb.diffusion.cpu import native, workers
from swiftai_nb.diffusion.cpu.native import loader

ROUNDS, SECONDS = 7, 0.3  # a turn is repeated for so long


def operations() -> dict[str, Callable[[], object]]:
    """Some of Stable Diffusion 1.5 at 512x512, guided, and one small one."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> mx.array:
        return mx.array(random.standard_normal(shape, dtype=np.float32))

    x, weight = normal(8192, 320), normal(2560, 320)
    picture, kernel, strided = normal(2, 64, 64, 320), normal(320, 3, 3, 320), normal(640, 3, 3, 320)
    q, few, narrow = normal(2, 8, 4096, 40), normal(128, 128), normal(256, 128)
    return {
        "dense layer 8192x320x2560": lambda: native.linear(x, weight, None),
        "dense layer 128x128x256": lambda: native.linear(few, narrow, None),
        "convolution 64x64, 320 channels": lambda: native.conv2d(picture, kernel, None, stride=1, padding=1),
        "the same with stride 2": lambda: native.conv2d(picture, strided, None, stride=2, padding=1),
        "attention of 4096 tokens, 8 heads": lambda: native.attention(q, q, q, scale=0.16, mask=None),
    }


def report() -> list[str]:
    """A Markdown table: medians of turns that alternate."""
    target = cpu_kernels.choose_library().target
    if target is None:
        return ["", "### Stop flag", "", "no compiled kernels"]
    lines = [
        "",
        "### What reading the stop flag costs",
        "",
        "| | with, ms | without, ms | ratio |",
        "|---|---|---|---|",
    ]
    workers.stop_flag.set(ctypes.c_int(0))
    chosen = loader.status
    with tempfile.TemporaryDirectory() as folder:
        path = cpu_kernels.build(Path(folder), targets=(target,), extra_options=("-DWITHOUT_STOP",))[0]
        libraries = [loader.open_library(target.path), loader.open_library(path)]
        try:
            for name, run in operations().items():
                times: tuple[list[float], list[float]] = ([], [])
                for number in range(2 * ROUNDS + 2):
                    loader.status = lambda number=number: loader.Status(libraries[number % 2], "")  # type: ignore[assignment]
                    run()
                    if number > 1:
                        times[number % 2].append(seconds(run))
                with_s, without_s = (statistics.median(each) for each in times)
                lines.append(
                    f"| {name} | {with_s * 1e3:.3f} | {without_s * 1e3:.3f} | {with_s / without_s:.3f} |"
                )
        finally:
            loader.status = chosen
    return lines


def seconds(run: Callable[[], object]) -> float:
    """Of one call: the best of those that fit into a turn."""
    best, until_s = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until_s:
        start_s = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start_s)
    return best
