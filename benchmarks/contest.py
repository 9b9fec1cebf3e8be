"""Contestants in their own processes, taking turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass
class Contestant:
    """One process that waits for its turn.

    Attributes:
        name: shown in the table.
        command: starts it.
        runs: what it answered, the first being the warm-up.
    """

    name: str
    command: list[str]
    runs: list[dict[str, float]] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            cwd=HERE.parent,
        )
        self._answer()

    def turn(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.runs.append(self._answer())

    def _answer(self) -> dict[str, float]:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended: {' '.join(self.command)}")

    def stop(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(timeout=60)

    def seconds(self) -> list[float]:
        """Of the timed runs; of the warm-up when there was nothing else."""
        return [run["seconds"] for run in self.timed]

    @property
    def timed(self) -> list[dict[str, float]]:
        return self.runs[1:] if len(self.runs) > 1 else self.runs

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds())

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all threads: what a busy machine distorts least."""
        return statistics.median(run["cpu_s"] for run in self.timed)

    @property
    def peak_bytes(self) -> float:
        return self.runs[-1]["peak_bytes"]


def ours(name: str, task: str, folder: Path, size: int, mode: str = "fast") -> Contestant:
    return Contestant(
        name, [sys.executable, "-m", "benchmarks.child_ours", task, str(folder), str(size), mode]
    )


def diffusers(python: Path, task: str, folder: Path, size: int, mode: str) -> Contestant:
    script = str(HERE / "child_torch.py")
    return Contestant(f"diffusers {mode}", [str(python), script, task, str(folder), str(size), mode])


def openvino(python: Path, task: str, folder: Path, size: int, mode: str) -> Contestant:
    script = str(HERE / "child_openvino.py")
    return Contestant(
        f"OpenVINO {mode}", [str(python), script, task, str(folder.absolute()), str(size), mode]
    )


def sd_cpp(program: Path, folder: Path, size: int) -> Contestant:
    script = str(HERE / "child_sd_cpp.py")
    return Contestant(
        "stable-diffusion.cpp",
        [sys.executable, script, str(program.absolute()), str(folder.absolute()), str(size)],
    )


def compete(contestants: list[Contestant], rounds: int) -> list[Contestant]:
    """One warm-up and `rounds` timed turns each, interleaved; a contestant that cannot start is left out."""
    present = []
    for contestant in contestants:
        try:
            contestant.start()
            present.append(contestant)
        except (OSError, RuntimeError) as error:
            print(f"left out: {error}", file=sys.stderr)
    try:
        for number in range(rounds + 1):
            for contestant in present:
                contestant.turn()
                print(f"  {number} {contestant.name}: {contestant.runs[-1]}", file=sys.stderr, flush=True)
    finally:
        for contestant in present:
            contestant.stop()
    return present
