"""Packs a model's weights once and saves them, in a process of its own: its memory goes with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import AIError, GenerationFailedError, error_from_dict
from swiftai_nb.engine.kernel.process import describe_exit, python_command


def save_quantized(
    folder: Path, target: Path, *, bits: int, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Makes a folder that loads without packing anything.

    Args:
        folder: the model.
        target: to make; appears whole or not at all.
        bits: 4 or 8.
        say: told each network's name before it is read.

    Raises:
        AIError: the model cannot be read, or the process failed.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    command = [*python_command("swiftai_nb.engine.child.quantize"), str(folder), str(target), str(bits)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    error: AIError | None = None
    is_done = False
    try:
        for line in process.stdout if process.stdout is not None else ():
            event = json.loads(line)
            if "error" in event:
                error = error_from_dict(event["error"])
            elif "network" in event:
                say(event["network"])
            is_done = is_done or "done" in event
        said = process.stderr.read() if process.stderr is not None else ""
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        for left in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
    if error is not None:
        raise error
    if not is_done:
        raise describe_exit(process.returncode, said.splitlines())


def main() -> None:
    """The child: FOLDER TARGET BITS behind the installation's folder; JSON lines on standard output."""
    folder, target, bits = sys.argv[2:5]

    def tell(**event: Any) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    try:
        _save(Path(folder), Path(target), int(bits), lambda name: tell(network=name))
    except AIError as error:
        tell(error=error.to_dict())
    except (OSError, RuntimeError, ValueError) as error:
        failure = GenerationFailedError(f"packing failed: {error}", hint="free disk space and try again")
        tell(error=failure.to_dict())
    else:
        tell(done=True)


def _save(folder: Path, target: Path, bits: int, tell: Callable[[str], None]) -> None:
    from swiftai_nb.diffusion import load_pipeline
    from swiftai_nb.diffusion.memory import MemoryPolicy
    from swiftai_nb.diffusion.weights.save import save_model

    MemoryPolicy.for_machine().apply()
    pipeline = load_pipeline(folder, quantization_bits=bits)
    save_model(pipeline.networks, folder, target, tell=tell)
