from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from swiftai_nb.core.errors import (
    AIError,
    AuthenticationError,
    ChecksumMismatchError,
    InsufficientDiskSpaceError,
    ModelNotFoundError,
    NetworkError,
    RateLimitedError,
    ServerError,
)
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.conftest import (
    IMPATIENT,
    REPOSITORY,
    TEXT_ENCODER,
    UNET,
    assert_complete,
    make_downloader,
    partial_files,
)
from tests.downloads.fake_hub import EXPIRED_TOKEN, GOOD_TOKEN, FakeHub, tiny_repository
from tests.waiting import wait_until

UNET_BYTES = len(tiny_repository()[UNET])


def download(downloader, handler=None):
    return asyncio.run(downloader.download(REPOSITORY, progress_handler=handler))


@pytest.mark.parametrize("mode", ["fin", "rst"])
def test_dropped_connection_continues_at_the_byte(hub, registry, downloader, mode):
    hub.faults.drop_mode = mode
    hub.faults.drop_after[UNET] = [100_000, 50_000, 30_000]
    assert_complete(hub, download(downloader))
    assert hub.fetched(UNET) <= UNET_BYTES + 3 * 70_000  # what was under way when the line went dead
    starts = [r.first_byte for r in hub.gets(UNET)]
    assert starts == sorted(starts)
    # A reset may take with it what the reader had not read yet; an orderly end takes nothing.
    assert starts[-1] == 180_000 if mode == "fin" else len(set(starts)) > 1
    assert not partial_files(registry.cache_dir)


def test_drops_without_an_end_give_one_error_and_the_next_run_continues(hub, registry, downloader):
    hub.faults.drop_after[UNET] = [80_000] + [0] * 20
    with pytest.raises(NetworkError) as caught:
        download(downloader)
    assert "again" in str(caught.value.hint)
    hub.faults.drop_after.clear()
    hub.requests.clear()
    assert_complete(hub, download(downloader))
    assert hub.fetched(UNET) <= UNET_BYTES - 60_000
    assert not partial_files(registry.cache_dir)


def test_server_that_ignores_range_sends_the_file_again(hub, downloader):
    hub.faults.ignore_range.add(UNET)
    hub.faults.drop_after[UNET] = [100_000]
    seen = []
    assert_complete(hub, download(downloader, seen.append))
    assert hub.gets(UNET)[-1].status == 200
    amounts = [p.completed_bytes for p in seen]
    assert amounts == sorted(amounts)


def test_stalled_server_is_left_after_the_timeout(hub, registry):
    hub.faults.hang.add(UNET)
    downloader = make_downloader(hub, registry, options=replace(IMPATIENT, timeout_s=1.0))
    started = time.monotonic()
    with pytest.raises(NetworkError, match="timed out after"):
        download(downloader)
    assert time.monotonic() - started < 90


def test_stalled_server_that_recovers_is_continued(hub, registry):
    downloader = make_downloader(hub, registry, options=replace(IMPATIENT, timeout_s=3.0))
    hub.faults.hang_after[UNET] = 100_000

    def recover(progress):
        if progress.phase == "retrying":
            hub.faults.hang_after.clear()

    assert_complete(hub, download(downloader, recover))
    assert hub.gets(UNET)[-1].first_byte >= 90_000


def test_corrupt_bytes_once_are_fetched_again(hub, downloader):
    hub.faults.corrupt[UNET] = 1
    assert_complete(hub, download(downloader))


@pytest.mark.parametrize("path", [UNET, "unet/config.json"])
def test_corrupt_bytes_are_deleted_and_named(hub, registry, downloader, path):
    hub.faults.corrupt[path] = 99
    with pytest.raises(ChecksumMismatchError, match=path):
        download(downloader)
    assert not registry.is_downloaded(REPOSITORY)
    oid_files = [p for p in registry.cache_dir.rglob("*") if p.is_file() and not p.name.endswith(".lock")]
    good = set(hub.repositories[REPOSITORY].values())
    assert all(p.read_bytes() in good for p in oid_files if not p.name.endswith(".incomplete"))
    hub.faults.corrupt.clear()
    assert_complete(hub, download(downloader))


def test_partial_file_with_wrong_bytes_is_noticed_and_replaced(hub, registry, downloader):
    """As after a power loss, when a file system keeps a length but not the bytes."""
    hub.faults.drop_after[UNET] = [100_000] + [0] * 20
    with pytest.raises(NetworkError):
        download(downloader)
    partial = max(partial_files(registry.cache_dir), key=lambda p: p.stat().st_size)
    partial.write_bytes(bytes(partial.stat().st_size))
    hub.faults.drop_after.clear()
    assert_complete(hub, download(downloader))


def test_partial_file_longer_than_the_file_is_replaced(hub, registry, downloader):
    hub.faults.drop_after[UNET] = [100_000] + [0] * 20
    with pytest.raises(NetworkError):
        download(downloader)
    partial = max(partial_files(registry.cache_dir), key=lambda p: p.stat().st_size)
    partial.write_bytes(bytes(UNET_BYTES + 5))
    hub.faults.drop_after.clear()
    assert_complete(hub, download(downloader))


def test_too_many_requests_waits_as_long_as_asked(hub, downloader):
    hub.faults.status["resolve.*unet/diff"] = [(429, {"Retry-After": "2"})]
    seen = []
    started = time.monotonic()
    assert_complete(hub, download(downloader, seen.append))
    assert time.monotonic() - started >= 2.0
    assert any("too many requests" in p.detail for p in seen)


def test_too_long_a_retry_after_is_an_error_that_says_it(hub, downloader):
    hub.faults.status["resolve.*unet/diff"] = [(429, {"Retry-After": "4000"})] * 5
    with pytest.raises(RateLimitedError, match="4000") as caught:
        download(downloader)
    assert caught.value.retry_after_s == 4000.0


@pytest.mark.parametrize("where", ["api/models", "resolve.*unet/diff"])
def test_service_failing_for_a_while_is_tried_again(hub, downloader, where):
    hub.faults.status[where] = [(503, {}), (500, {})]
    assert_complete(hub, download(downloader))


@pytest.mark.parametrize("where", ["api/models", "resolve.*unet/diff"])
def test_service_failing_for_long_is_one_error(hub, downloader, where):
    hub.faults.status[where] = [(503, {})] * 40
    with pytest.raises(ServerError) as caught:
        download(downloader)
    assert caught.value.status_code == 503
    assert "again" in str(caught.value.hint)


def test_gated_without_a_token_says_where_to_accept_and_log_in(hub, registry, downloader):
    hub.faults.gated.add(REPOSITORY)
    with pytest.raises(AuthenticationError, match="gated") as caught:
        download(downloader)
    assert f"https://huggingface.co/{REPOSITORY}" in str(caught.value.hint)
    assert not partial_files(registry.cache_dir)


def test_gated_with_the_wrong_token_does_not_say_log_in(hub, registry):
    hub.faults.gated.add(REPOSITORY)
    with pytest.raises(AuthenticationError, match="this token has no access"):
        download(make_downloader(hub, registry, token="hf_other"))


def test_gated_with_the_right_token_downloads(hub, registry):
    hub.faults.gated.add(REPOSITORY)
    assert_complete(hub, download(make_downloader(hub, registry, token=GOOD_TOKEN)))


def test_gated_with_the_wrong_stored_token_does_not_say_log_in_either(hub, downloader, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stored")
    hub.faults.gated.add(REPOSITORY)
    with pytest.raises(AuthenticationError, match="this token has no access"):
        download(downloader)


def test_expired_token_is_named_as_the_reason(hub, registry):
    """The Hub refuses it even for open models: "not found" or "gated" would lead the user astray."""
    with pytest.raises(AuthenticationError, match="does not accept your token") as caught:
        download(make_downloader(hub, registry, token=EXPIRED_TOKEN))
    assert "open models need no token" in str(caught.value.hint)
    assert EXPIRED_TOKEN not in str(caught.value)


def test_missing_own_repository_speaks_of_spelling_and_access(hub, registry):
    registry.add_repository("org/nope", variant=DiffusionVariant.SD_15)
    with pytest.raises(ModelNotFoundError, match="org/nope") as caught:
        asyncio.run(make_downloader(hub, registry).download("org/nope"))
    assert "spelling" in str(caught.value.hint)


def test_missing_catalog_repository_does_not_ask_to_log_in(hub, registry):
    with pytest.raises(ModelNotFoundError, match="not on the Hub any more") as caught:
        asyncio.run(make_downloader(hub, registry).download("sd-turbo"))
    assert "will not help" in str(caught.value.hint)


def test_missing_revision_is_named(hub, registry):
    entry = registry.find(REPOSITORY)
    registry.add_custom(replace(entry, revision="v9"))
    with pytest.raises(ModelNotFoundError, match="v9"):
        download(make_downloader(hub, registry))


def test_repository_that_lost_a_file_is_named(hub, registry):
    entry = registry.find(REPOSITORY)
    from swiftai_nb.registry.model_info import ModelFile

    registry.add_custom(replace(entry, files=(ModelFile("unet/gone.safetensors"),)))
    with pytest.raises(Exception, match=r"unet/gone\.safetensors"):
        download(make_downloader(hub, registry))


def test_no_server_at_all_is_a_network_error(registry):
    with FakeHub({}) as hub:
        pass
    with pytest.raises(NetworkError, match="connection"):
        download(make_downloader(hub, registry))


def test_a_page_in_the_way_is_named(hub, downloader):
    """A hotel's log-in page answers everything with 200 and HTML."""
    hub.routes["GET", ".*"] = lambda handler, _match: handler.send(200, b"<html>Welcome!</html>")
    with pytest.raises(AIError, match="does not answer like the Hub"):
        download(downloader)


def test_too_little_room_is_said_before_a_byte_is_fetched(hub, registry, downloader, monkeypatch):
    huge = replace(registry.find(REPOSITORY), id="huge")
    registry.add_custom(huge)
    with small_disk(registry, 200_000) as small, pytest.raises(InsufficientDiskSpaceError, match="needs"):
        asyncio.run(make_downloader(hub, small).download(REPOSITORY))
    assert hub.gets() == []


def test_disk_that_fills_up_midway_leaves_no_partial_file(hub, registry):
    """Somebody else takes the room while the download runs."""
    needed = sum(len(v) for k, v in tiny_repository().items() if "fp16" in k)
    hub.faults.throttle_bps = 150_000
    with small_disk(registry, needed + 300_000) as small:
        downloader = make_downloader(hub, small)
        running = downloader.start(REPOSITORY)
        wait_until(lambda: hub.fetched(UNET) >= 60_000)
        fill_up(Path(small.cache_dir, "other"))
        with pytest.raises(InsufficientDiskSpaceError, match="filled up"):
            running.result(180)
        assert partial_files(small.cache_dir) == []
        Path(small.cache_dir, "other").unlink()
        hub.faults.throttle_bps = None
        assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))


def test_cache_that_cannot_be_written_says_so(hub, registry, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    blocked = DiffusionModelRegistry(home=registry.home, cache_dir=tmp_path / "file")
    with pytest.raises(Exception, match="cannot write"):
        asyncio.run(make_downloader(hub, blocked).download(REPOSITORY))


def fill_up(path: Path) -> None:
    """Takes all the room there is, also what the download frees or takes meanwhile."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


class small_disk:  # noqa: N801 (a context manager)
    """A file system of so many bytes under the registry's cache; skips where that needs more rights."""

    def __init__(self, registry: DiffusionModelRegistry, size_bytes: int) -> None:
        self.folder = registry.home.parent / "small"
        self.size_bytes = size_bytes
        self.registry = registry

    def __enter__(self) -> DiffusionModelRegistry:
        self.folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.size_bytes}", "tmpfs", str(self.folder)]
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine does not let us mount a small file system")
        return DiffusionModelRegistry(home=self.registry.home, cache_dir=self.folder)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)


def test_options_reach_the_child(hub, registry):
    hub.faults.status["resolve.*unet/diff"] = [(503, {})] * 40
    once = replace(IMPATIENT, max_attempts=1)
    with pytest.raises(ServerError):
        download(make_downloader(hub, registry, options=once))
    assert sum("unet/diff" in r.path for r in hub.requests) == 1
    assert hub.fetched(TEXT_ENCODER) >= 0
