from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swiftai_nb.core.errors import DownloadCancelledError
from swiftai_nb.downloads.download import Download
from tests.downloads.conftest import (
    REPOSITORY,
    UNET,
    VAE,
    assert_complete,
    cancel_limit_s,
    make_downloader,
    partial_files,
    partial_sizes,
)
from tests.waiting import wait_until

IS_POSIX = os.name == "posix"

# A kernel: downloads what its command line says, prints the child's process id, then the folder.
KERNEL = """
import json, sys
from swiftai_nb.downloads.downloader import DiffusionModelDownloader, DownloadOptions
from swiftai_nb.registry.registry import DiffusionModelRegistry
home, cache, url, model = sys.argv[1:5]
registry = DiffusionModelRegistry(home=home, cache_dir=cache)
options = DownloadOptions(timeout_s=15.0, max_attempts=3, backoff_s=0.05)
download = DiffusionModelDownloader(registry=registry, endpoint=url, options=options).start(model)
print(json.dumps({"pid": download.pid}), flush=True)
phases = set()
download.subscribe(lambda d: phases.add(d.progress.phase))
folder = download.result()
print(json.dumps({"folder": str(folder), "phases": sorted(phases)}), flush=True)
"""


def start_kernel(hub, registry) -> subprocess.Popen[str]:
    arguments = [str(registry.home), str(registry.cache_dir), hub.url, REPOSITORY]
    return subprocess.Popen([sys.executable, "-c", KERNEL, *arguments], stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def cancel_in_time(download: Download) -> None:
    started = time.monotonic()
    download.cancel()
    took_s = time.monotonic() - started
    assert took_s < cancel_limit_s(), f"cancel took {took_s:.2f} s"
    assert not is_alive(download.pid)
    with pytest.raises(DownloadCancelledError):
        download.result(1.0)


def test_cancel_ends_a_stalled_download_at_once(hub, downloader):
    hub.faults.hang.add(UNET)
    download = downloader.start(REPOSITORY)
    wait_until(lambda: any(r.file == UNET for r in hub.requests))
    cancel_in_time(download)


def test_cancel_right_after_the_start(downloader):
    cancel_in_time(downloader.start(REPOSITORY))


def test_cancel_twice_and_after_the_end_does_no_harm(hub, downloader):
    download = downloader.start(REPOSITORY)
    folder = download.result(180)
    download.cancel()
    assert download.result() == folder
    assert_complete(hub, folder)


def test_cancel_ends_a_child_that_ignores_being_asked(hub, downloader, monkeypatch):
    hub.faults.hang.add(UNET)
    download = downloader.start(REPOSITORY)
    wait_until(lambda: download.progress.total_bytes > 0)
    monkeypatch.setattr(download._process._process, "terminate", lambda: None)
    cancel_in_time(download)


def test_twenty_cancels_at_random_moments_fetch_no_finished_byte_twice(hub, registry, downloader):
    """However often it is interrupted, the bytes sent are those of one download and little more."""
    chance = random.Random(7)
    hub.faults.throttle_bps = 400_000
    files = hub.repositories[REPOSITORY]
    for _ in range(20):
        download = downloader.start(REPOSITORY)
        time.sleep(chance.uniform(0.0, 1.3))  # sleep: a random moment of the download
        finished = {p: p.stat().st_mtime_ns for p in registry.cache_dir.rglob("blobs/*") if p.suffix == ""}
        if download.done:
            break
        cancel_in_time(download)
        assert all(p.stat().st_mtime_ns == at for p, at in finished.items())
    hub.faults.throttle_bps = None
    assert_complete(hub, downloader.start(REPOSITORY).result(180))
    assert partial_files(registry.cache_dir) == []
    for path in (UNET, VAE):
        starts = [r.first_byte for r in hub.gets(path)]
        assert starts == sorted(starts), "a request began before what was already here"
        # Between two requests at most what was on its way (socket buffers) may have been lost.
        sent_again = hub.fetched(path) - len(files[path])
        assert sent_again <= 200_000 * max(0, len(starts) - 1)


def test_a_finished_file_is_never_asked_for_again(hub, registry, downloader):
    hub.faults.hang.add(UNET)
    download = downloader.start(REPOSITORY)
    wait_until(lambda: download.progress.completed_files == download.progress.total_files - 1 > 0)
    cancel_in_time(download)
    hub.faults.hang.clear()
    hub.requests.clear()
    assert_complete(hub, downloader.start(REPOSITORY).result(180))
    assert {r.file for r in hub.gets()} == {UNET}


def test_partial_bytes_are_continued_in_the_next_run(hub, registry, downloader):
    hub.faults.hang_after[UNET] = 200_000
    download = downloader.start(REPOSITORY)
    wait_until(lambda: partial_sizes(registry.cache_dir) == [200_000])
    cancel_in_time(download)
    hub.faults.hang_after.clear()
    hub.requests.clear()
    seen = []
    again = downloader.start(REPOSITORY)
    again.subscribe(lambda d: seen.append(d.progress))
    assert_complete(hub, again.result(180))
    assert [r.first_byte for r in hub.gets(UNET)] == [200_000]
    assert hub.fetched(UNET) == len(hub.repositories[REPOSITORY][UNET]) - 200_000


def test_child_killed_by_the_system_is_one_error_and_can_be_continued(hub, downloader):
    hub.faults.hang_after[UNET] = 200_000
    download = downloader.start(REPOSITORY)
    wait_until(lambda: download.progress.completed_bytes > 400_000)
    os.kill(download.pid, signal.SIGKILL if IS_POSIX else signal.SIGTERM)
    with pytest.raises(Exception, match=r"SIGKILL|status") as caught:
        download.result(180)
    assert "resumes" in str(caught.value.hint)
    hub.faults.hang_after.clear()
    assert_complete(hub, downloader.start(REPOSITORY).result(180))


@pytest.mark.skipif(not IS_POSIX, reason="signals of POSIX")
def test_killed_kernel_leaves_no_process_and_the_next_one_continues(hub, registry, downloader):
    hub.faults.hang_after[UNET] = 200_000
    kernel = start_kernel(hub, registry)
    child = json.loads(kernel.stdout.readline())["pid"]
    wait_until(lambda: any(size >= 190_000 for size in partial_sizes(registry.cache_dir)))
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    kernel.stdout.close()
    wait_until(lambda: not is_alive(child), timeout_s=60)
    hub.faults.hang_after.clear()
    hub.requests.clear()
    assert_complete(hub, downloader.start(REPOSITORY).result(180))
    assert hub.gets(UNET)[0].first_byte >= 150_000


@pytest.mark.skipif(not IS_POSIX, reason="signals of POSIX")
def test_interrupt_for_the_kernel_does_not_reach_the_child(hub, registry):
    """Ctrl-C in a terminal goes to the whole group of processes; the kernel decides what it means."""
    hub.faults.hang.add(UNET)
    kernel = start_kernel(hub, registry)
    child = json.loads(kernel.stdout.readline())["pid"]
    assert os.getpgid(child) != os.getpgid(kernel.pid)
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    wait_until(lambda: not is_alive(child), timeout_s=60)


def test_two_kernels_at_once_fetch_once(hub, registry):
    hub.faults.throttle_bps = 250_000
    kernels = [start_kernel(hub, registry) for _ in range(2)]
    outputs = [kernel.communicate(timeout=180)[0].splitlines() for kernel in kernels]
    results = [json.loads(lines[-1]) for lines in outputs]
    assert results[0]["folder"] == results[1]["folder"]
    assert_complete(hub, Path(results[0]["folder"]))
    for path, data in hub.repositories[REPOSITORY].items():
        assert hub.fetched(path) in (0, len(data)), path
    assert any("waiting" in r["phases"] for r in results)


def test_second_kernel_takes_over_when_the_first_is_cancelled(hub, registry, downloader):
    hub.faults.throttle_bps = 40_000
    first = downloader.start(REPOSITORY)
    wait_until(lambda: hub.fetched(UNET) > 16_000)
    second = make_downloader(hub, registry).start(REPOSITORY)
    wait_until(lambda: second.progress.phase == "waiting")
    shown = second.progress.completed_bytes
    wait_until(lambda: second.progress.completed_bytes > shown)
    cancel_in_time(first)
    hub.faults.throttle_bps = None
    assert_complete(hub, second.result(180))
    assert len(hub.gets(UNET)) == 2
    assert hub.gets(UNET)[1].first_byte > 0
