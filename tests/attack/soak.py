"""Many jobs on one engine, with cancels, errors and kills: nothing grows, nothing is left behind.

    python -m tests.attack.soak [JOBS] [KILLS]   # 1000 jobs and 50 kills; on Linux

Exit status 1 when a promise is broken: a job that ends otherwise than it must, memory of kernel or engine that
grows by more than 5 % in the second half, file descriptors or threads that grow at all, a job that fails after
a kill, a process that is left.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, EngineDiedError, GenerationCancelledError
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.jobs.queue import JobQueue
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry

TIMEOUT_S = 120
LARGEST_GROWTH = 1.05
MEASURED_EVERY = 50


class Soak:
    """One provider and one queue, as a notebook has them.

    Args:
        home: state folder.
        seed: of the random choices.
    """

    def __init__(self, home: Path, *, seed: int) -> None:
        self.provider = MLXImageProvider("process", DiffusionModelRegistry(home=home))
        self.queue = JobQueue()
        self.random = random.Random(seed)
        self.pictures: dict[int, bytes] = {}

    def run(self, jobs: int) -> None:
        """Jobs of which one in ten is cancelled and one in twenty-five fails."""
        start: dict[str, float] = {}
        for number in range(jobs):
            if number and number % MEASURED_EVERY == 0:
                print(f"after {number} jobs: {self.measure()}", flush=True)
            if number == jobs // 2:
                start = self.measure()
            kind = self.random.choices(["picture", "cancel", "error"], [86, 10, 4])[0]
            getattr(self, f"_{kind}")()
        end = self.measure()
        print(f"after {jobs} jobs: {end}", flush=True)
        for name, value in end.items():
            limit = start[name] * LARGEST_GROWTH if name.endswith("MB") else start[name]
            assert value <= limit, f"{name} grew from {start[name]:g} to {value:g}"

    def kill(self, kills: int) -> None:
        """The engine is killed at a random moment, busy or idle: the next job works."""
        ended_by_kill = 0
        for _ in range(kills):
            job = self.queue.submit(self.request(steps=50), self.provider)
            time.sleep(self.random.uniform(0.0, 1.0))  # sleep: a random moment of the job
            pid = self.provider.engine_pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            try:
                job.result(TIMEOUT_S)
            except EngineDiedError:
                ended_by_kill += 1
            self._picture()
        print(
            f"{kills} kills: {ended_by_kill} jobs ended by them, {kills} of {kills} next jobs worked",
            flush=True,
        )

    def close(self) -> None:
        """Ends the engine; asserts that it is gone."""
        pid = self.provider.engine_pid
        self.queue.close()
        self.provider.close()
        assert pid is None or not Path(f"/proc/{pid}").exists(), "the engine is left behind"

    def request(self, *, steps: int = 4, seed: int = 1) -> GenerationRequest:
        """Of the bundled model."""
        config = ImageGenerationConfig(model="emoji-mini", steps=steps)
        return GenerationRequest("a red fox", None, config, (seed,))

    def measure(self) -> dict[str, float]:
        """Memory, descriptors and threads of this process, and memory of the engine."""
        asyncio.run(self.provider.status())  # its answer follows what the engine does after a job
        engine_pid = self.provider.engine_pid
        assert engine_pid is not None
        return {
            "kernel MB": _resident_mb(os.getpid()),
            "engine MB": _resident_mb(engine_pid),
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "threads": threading.active_count(),
        }

    def _picture(self) -> None:
        seed = self.random.randrange(8)
        (image,) = self.queue.submit(self.request(seed=seed), self.provider).result(TIMEOUT_S)
        assert self.pictures.setdefault(seed, image.data) == image.data, "another picture for the same seed"

    def _cancel(self) -> None:
        job = self.queue.submit(self.request(steps=1000), self.provider)
        time.sleep(self.random.uniform(0.0, 0.2))  # sleep: a random moment of the job
        job.cancel()
        try:
            job.result(TIMEOUT_S)
        except GenerationCancelledError:
            return
        raise AssertionError("a cancelled job made its picture")

    def _error(self) -> None:
        config = ImageGenerationConfig(model="emoji-mini", loras=())
        bad = self.random.choice([config.replace(width=24), config.replace(model="nobody/nothing")])
        try:
            self.queue.submit(GenerationRequest("a fox", None, bad, (1,)), self.provider).result(TIMEOUT_S)
        except AIError:
            return
        raise AssertionError("a job that cannot work made its picture")


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> int:
    """Runs the soak; returns the exit status."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    seed = random.randrange(2**32)
    print(f"{jobs} jobs, {kills} kills, seed {seed}", flush=True)
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        soak = Soak(Path(home), seed=seed)
        try:
            soak.run(jobs)
            soak.kill(kills)
        finally:
            soak.close()
    print(f"{time.monotonic() - start_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
