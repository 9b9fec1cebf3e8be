"""Downloads that are aborted at random moments: nothing is left behind, and the next download succeeds.

    python -m tests.attack.aborts [ABORTS]   # 50; on Linux

The worker is killed, the kernel is killed, the connection is cut, or the disk is full; in turn. After each: no
process is left, and the next download completes, resumes what was received, and leaves no partial file.
Exit status 1 when a promise is broken.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from swiftai_nb.core.errors import AIError
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.conftest import REPOSITORY, UNET, assert_complete, make_downloader, partial_files
from tests.downloads.fake_hub import FakeHub, tiny_repository
from tests.downloads.test_download_cancel import is_alive, start_kernel
from tests.waiting import wait_until

THROTTLE_BPS = 400_000


class Aborts:
    """One Hub, and a new cache for every abort."""

    def __init__(self, hub: FakeHub, *, seed: int) -> None:
        self.hub = hub
        self.random = random.Random(seed)
        self.resumed = 0

    def run(self, kind: str) -> None:
        """Aborts a download in this way, and downloads again."""
        abort: Callable[[DiffusionModelRegistry], int] = getattr(self, f"_{kind}")
        with tempfile.TemporaryDirectory() as home:
            registry = DiffusionModelRegistry(home=Path(home), cache_dir=Path(home) / "cache")
            registry.add_repository(REPOSITORY, variant=DiffusionVariant.SD_15)
            self.hub.faults.throttle_bps = THROTTLE_BPS
            pid = abort(registry)
            wait_until(lambda: not is_alive(pid))
            self.hub.faults.throttle_bps = None
            self.hub.faults.drop_after.clear()
            self.resumed += bool(partial_files(registry.cache_dir))
            assert_complete(self.hub, make_downloader(self.hub, registry).start(REPOSITORY).result(180))
            assert partial_files(registry.cache_dir) == []

    def _wait(self) -> None:
        time.sleep(self.random.uniform(0.0, 1.5))  # sleep: a random moment of the download

    def _worker_killed(self, registry: DiffusionModelRegistry) -> int:
        download = make_downloader(self.hub, registry).start(REPOSITORY)
        self._wait()
        if is_alive(download.pid):
            os.kill(download.pid, signal.SIGKILL)
        _outcome(download.result)
        return download.pid

    def _kernel_killed(self, registry: DiffusionModelRegistry) -> int:
        with start_kernel(self.hub, registry) as kernel:
            assert kernel.stdout is not None
            pid: int = json.loads(kernel.stdout.readline())["pid"]
            self._wait()
            kernel.kill()
        return pid

    def _connection_cut(self, registry: DiffusionModelRegistry) -> int:
        size_bytes = len(self.hub.repositories[REPOSITORY][UNET])
        self.hub.faults.drop_after[UNET] = [self.random.randrange(size_bytes // 9) for _ in range(9)]
        self.hub.faults.drop_mode = self.random.choice(["fin", "rst"])
        download = make_downloader(self.hub, registry).start(REPOSITORY)
        _outcome(download.result)
        return download.pid

    def _disk_full(self, registry: DiffusionModelRegistry) -> int:
        """A limit on the size of files, which ends a write as a full disk does."""
        download = make_downloader(self.hub, registry).start(REPOSITORY)
        limit = self.random.randrange(1_000, 300_000)
        resource.prlimit(download.pid, resource.RLIMIT_FSIZE, (limit, limit))
        _outcome(download.result)
        return download.pid


def _outcome(result: Callable[[float], object]) -> None:
    """An abort ends a download with an error of ours, or comes too late."""
    try:
        result(180)
    except AIError:
        return


def orphans() -> list[str]:
    """Command lines of downloads' processes of this package that still run below this process or init."""
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    own = (str(os.getpid()), "1")
    return [line for line in listed.splitlines() if "downloads.worker" in line and line.split()[0] in own]


def main() -> int:
    """Runs the aborts; returns the exit status."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seed = random.randrange(2**32)
    kinds = ("worker_killed", "kernel_killed", "connection_cut", "disk_full")
    before_s = time.monotonic()
    with FakeHub({REPOSITORY: tiny_repository()}) as hub:
        aborts = Aborts(hub, seed=seed)
        for number in range(count):
            aborts.run(kinds[number % len(kinds)])
        assert orphans() == []
    print(
        f"seed {seed}: {count} aborts, {count} of {count} next downloads complete, {aborts.resumed} with partial "
        f"files to resume, 0 partial files left, 0 processes left, {time.monotonic() - before_s:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
