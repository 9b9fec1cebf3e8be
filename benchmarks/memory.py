"""`python -m benchmarks.memory`: peak memory of real-size models beside the estimate and beside diffusers.

Random weights, written in the catalog's layout into a Hugging Face cache of its own; pictures are made by
`%%imagine` in a Jupyter kernel, and the engine's process is asked for its peak (VmHWM; Linux). Then a second
picture is cancelled in its first denoising step, the model unloaded, and the memory that is left asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bundled
from benchmarks.memory_models import WRITERS, snapshot

PATIENCE_S = 3600


@dataclass(frozen=True)
class Case:
    """A picture to make.

    Attributes:
        model: catalog id.
        side: pixels.
        steps: denoising steps.
        has_peer: whether diffusers makes it too.
        is_edit: whether it changes a picture of that side.
    """

    model: str
    side: int
    steps: int
    has_peer: bool = False
    is_edit: bool = False


CASES = (
    Case("sd-1.5", 512, 2, has_peer=True),
    Case("sdxl-turbo", 512, 1, has_peer=True),
    Case("flux-schnell-4bit", 256, 1),
    Case("z-image", 512, 1),
    Case("flux.2-klein-4bit", 512, 1, is_edit=True),
)
ASK = """
import json, pathlib
from swiftai_nb import ImageGenerationConfig
from swiftai_nb.notebook.session import get_session
_engine = get_session().generator("local")
def _memory(field):
    status = pathlib.Path(f"/proc/{_engine.engine_pid}/status").read_text()
    return next(int(l.split()[1]) * 1024 for l in status.splitlines() if l.startswith(field))
"""
CANCEL = """
import asyncio, time
from swiftai_nb.core.progress import GenerationStage
_job = get_session().queue.jobs[-1]
while not _job.done and (_job.progress is None or _job.progress.stage != GenerationStage.DENOISING):
    await asyncio.sleep(0.1)
await asyncio.sleep(2)
_started_s = time.monotonic()
_job.cancel()
while not _job.done:
    await asyncio.sleep(0.01)
_cancel_s = time.monotonic() - _started_s
_state, _pid = str(_job.state), _engine.engine_pid
await _engine.unload_model()
print(json.dumps({"cancel_s": _cancel_s, "state": _state, "same_engine": _pid == _engine.engine_pid,
                  "left_bytes": _memory("VmRSS")}))
"""
PEER = """
import json, sys, time, torch, diffusers, pathlib
folder, side, steps, dtype = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), getattr(torch, sys.argv[4])
start = time.time()
pipe = diffusers.DiffusionPipeline.from_pretrained(folder, variant="fp16", torch_dtype=dtype)
pipe.set_progress_bar_config(disable=True)
guidance = 0.0 if "XL" in type(pipe).__name__ else 7.5
pipe("a red fox in the snow", width=side, height=side, num_inference_steps=steps, guidance_scale=guidance)
status = pathlib.Path("/proc/self/status").read_text()
peak = next(int(l.split()[1]) * 1024 for l in status.splitlines() if l.startswith("VmHWM"))
print(json.dumps({"peak_bytes": peak, "seconds": time.time() - start}))
"""


def main() -> None:
    options = _parse()
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {bundled.cpu_name()}, {bundled.versions()}\n",
        "| model | picture | plan | estimate | measured peak | s | cancelled after | after unloading |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in (c for c in CASES if c.model in options.only):
        folder = snapshot(options.work / "hf" / "hub", case.model)
        if not (folder / "complete").exists():
            _tell(f"writing {case.model}")
            WRITERS[case.model](folder)
            (folder / "complete").touch()
        for machine_gb in options.machine_gb:
            lines.append(_row(case, _ours(case, options.work, machine_gb), f"{machine_gb} GB machine"))
            _tell(lines[-1])
        for dtype in ("float32",) if case.has_peer and options.torch_python else ():
            found = _diffusers(case, folder, options.torch_python, dtype)
            lines.append(_row(case, found, f"diffusers {dtype}"))
            _tell(lines[-1])
        if not options.keep:
            shutil.rmtree(folder)
    print("\n".join(lines))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/memory"), help="up to 10 GB at a time")
    parser.add_argument("--torch-python", type=Path, help="an interpreter with torch and diffusers")
    parser.add_argument("--only", nargs="+", choices=[c.model for c in CASES], default=list(WRITERS))
    parser.add_argument(
        "--machine-gb", nargs="+", type=int, default=[8, 24], help="plan as on machines of this size"
    )
    parser.add_argument("--keep", action="store_true", help="leave the weights for the next run")
    return parser.parse_args()


def _ours(case: Case, work: Path, machine_gb: int) -> dict[str, Any]:
    """Makes the picture in a fresh kernel."""
    from jupyter_client.manager import start_new_kernel

    work = work.resolve()
    environment = {
        **os.environ,
        "HF_HOME": str(work / "hf"),
        "HF_HUB_OFFLINE": "1",
        "SWIFTAI_HOME": str(work / "home"),
        "SWIFTAI_MEMORY_GB": str(machine_gb),
    }
    manager, client = start_new_kernel(kernel_name="python3", env=environment)
    try:
        _run(client, "%load_ext swiftai_nb\n" + ASK)
        settings = f"model={case.model!r}, width={case.side}, height={case.side}, steps={case.steps}"
        if case.is_edit:
            _run(client, f"from PIL import Image; fox = Image.new('RGB', ({case.side}, {case.side}), 'red')")
            settings += ", references=[fox]"
        _run(client, f"_plan = _engine.plan('a fox', ImageGenerationConfig({settings}))")
        start = time.monotonic()
        words = f"--model {case.model} --size {case.side}x{case.side} --steps {case.steps} --seed 1"
        words += " --with fox" if case.is_edit else ""
        _run(client, f"%%imagine {words}\na red fox in the snow")
        seconds = time.monotonic() - start
        plan = "{n: round(b / 1e6) for n, b in _plan.memory_plan_bytes.weights_bytes.items()}"
        answer = _run(
            client,
            f"_parts = {plan}\n"
            "print(json.dumps({'peak_bytes': _memory('VmHWM'), 'estimate_bytes': _plan.memory_bytes,"
            " 'plan': _plan.memory_plan, 'denoising': _plan.memory_plan_bytes.denoising_bytes,"
            " 'decoding': _plan.memory_plan_bytes.decoding_bytes, 'parts': _parts,"
            " 'mlx': vars(await _engine.status())}, default=str))",
        )
        _tell(answer)
        found = {**json.loads(answer), "seconds": seconds}
        _run(client, f"%imagine a red fox {words} --bg")
        found |= json.loads(_run(client, CANCEL).splitlines()[-1])
        return found
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _run(client: Any, code: str) -> str:
    """Runs a cell; what it printed.

    Raises:
        RuntimeError: it failed.
    """
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hear, timeout=PATIENCE_S, allow_stdin=False)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"{code}: {reply['content']}")
    return "".join(printed)


def _diffusers(case: Case, folder: Path, python: Path, dtype: str) -> dict[str, Any]:
    command = [str(python), "-c", PEER, str(folder), str(case.side), str(case.steps), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(case: Case, found: dict[str, Any], name: str) -> str:
    plan = f"{name}: {found['plan']}" if "plan" in found else name
    estimate = f"{found['estimate_bytes'] / 1e9:.2f} GB" if "estimate_bytes" in found else ""
    picture = f"{case.side}x{case.side}{' edit' if case.is_edit else ''}, {case.steps} steps"
    peak = f"{found['peak_bytes'] / 1e9:.2f} GB"
    row = f"| {case.model} | {picture} | {plan} | {estimate} | {peak} | {found['seconds']:.0f} |"
    if "cancel_s" not in found:
        return f"{row} | |"
    return f"{row} {found['cancel_s']:.2f} s ({found['state']}) | {found['left_bytes'] / 1e9:.2f} GB |"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
