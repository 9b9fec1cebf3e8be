"""The bundled model as a user meets it: a warm kernel, and a cold one."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

COLD = """
import asyncio
from swiftai_nb import MLXImageProvider
provider = MLXImageProvider()
asyncio.run(provider.generate_image("a red apple"))
provider.close()
"""
OUR_NEEDS = (
    "mlx", "mlx-cpu", "numpy", "pillow", "tokenizers", "huggingface_hub", "hf-xet",
    "anywidget", "ipywidgets",
)  # fmt: skip
TORCH_NEEDS = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "pillow",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
)


def warm_seconds(rounds: int) -> list[float]:
    """Prompt to picture through the provider, the engine being warm; new words each time."""
    from swiftai_nb import MLXImageProvider

    provider = MLXImageProvider()

    async def run() -> list[float]:
        times = []
        for number in range(rounds + 1):
            start = time.perf_counter()
            await provider.generate_image(f"a red apple {number}")
            times.append(time.perf_counter() - start)
        return times[1:]

    try:
        return asyncio.run(run())
    finally:
        provider.close()


def cold_seconds(rounds: int) -> list[float]:
    """A fresh interpreter until its first picture is there and it has ended."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", COLD], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times


SIZE_CODE = """
import sys
from importlib import metadata
total = 0
for name in sys.argv[1:]:
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError:
        continue
    for file in files:
        try:
            total += file.locate().stat().st_size
        except OSError:
            pass
print(total)
"""


def install_bytes(python: str, names: tuple[str, ...]) -> int:
    """Bytes on disk of the named distributions where they are installed."""
    done = subprocess.run([python, "-c", SIZE_CODE, *names], check=True, capture_output=True, text=True)
    return int(done.stdout)


def describe(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s (best {min(times):.2f}, n = {len(times)})"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return os.uname().machine


def versions() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("mlx", "numpy"))
