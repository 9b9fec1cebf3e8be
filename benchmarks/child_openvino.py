"""Runs one task of OpenVINO in its own process, under an interpreter with openvino, torch and diffusers.

The network is converted once, from the folder's weights, and kept beside them; torch is not loaded after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from child import peak_bytes, quiet


def inputs_of(task: str, folder: Path, size: int):
    """Random inputs of a network, in the order it takes them."""
    import numpy as np

    random, side = np.random.default_rng(0), size // 8

    def normal(*shape: int):
        return random.standard_normal(shape, dtype=np.float32)

    if task == "vae":
        return [normal(1, 4, side, side)]
    width = json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"]
    return [normal(2, 4, side, side), np.full((2,), 500, np.float32), normal(2, 77, width)]


def stored(task: str, folder: Path, size: int) -> Path:
    """Where the converted network is kept."""
    return folder / "openvino" / f"{task}_{size}.xml"


def convert(task: str, folder: Path, size: int) -> None:
    """Traces diffusers' network and stores it, with weights of 16 bits; takes minutes."""
    import openvino
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    class Step(torch.nn.Module):
        """Positional arguments and one tensor, for the tracer."""

        def __init__(self) -> None:
            super().__init__()
            kind = AutoencoderKL if task == "vae" else UNet2DConditionModel
            self.network = kind.from_pretrained(folder / task).eval()

        def forward(self, *given):
            if task == "vae":
                return self.network.decode(given[0], return_dict=False)[0]
            return self.network(*given, return_dict=False)[0]

    example = tuple(torch.from_numpy(one) for one in inputs_of(task, folder, size))
    with torch.no_grad():
        model = openvino.convert_model(Step(), example_input=example, input=[one.shape for one in example])
    path = stored(task, folder, size)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"partial_{path.name}")
    openvino.save_model(model, partial, compress_to_fp16=True)
    partial.with_suffix(".bin").rename(path.with_suffix(".bin"))
    partial.rename(path)


def main() -> None:
    task, folder, size, mode = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    quiet()
    if len(sys.argv) > 5:
        convert(task, folder, size)
        return
    if not stored(task, folder, size).exists():  # in a process of its own: torch's memory is not ours
        subprocess.run([sys.executable, *sys.argv, "convert"], check=True, stdout=sys.stderr)
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[mode],
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(stored(task, folder, size), "CPU", options)
    inputs = inputs_of(task, folder, size)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start, cpu_before = time.perf_counter(), time.process_time()
        model(inputs)
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_before
        answer = {"seconds": seconds, "sgemm": 0.0, "peak_bytes": peak_bytes(), "cpu_s": cpu_s}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
