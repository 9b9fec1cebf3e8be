"""The real hf_xet, against a local store: an undocumented feature of it, so skipped where it is missing."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.downloads.conftest import (
    IMPATIENT,
    REPOSITORY,
    UNET,
    assert_complete,
    cancel_limit_s,
    make_downloader,
    partial_files,
)
from tests.downloads.fake_hub import FakeHub, tiny_repository
from tests.waiting import wait_until

pytest.importorskip("hf_xet")

VIA_XET = replace(IMPATIENT, transport="xet")


@pytest.fixture
def xet_hub(tmp_path):
    with FakeHub({REPOSITORY: tiny_repository()}) as server:
        enable(server, tmp_path)
        yield server


def orphans(registry):
    """What hf_xet left; our own partial files are continued and no orphans."""
    return [p for p in partial_files(registry.cache_dir) if ".swiftai." not in p.name]


def enable(server, tmp_path):
    try:
        server.enable_xet(tmp_path / "xet")
    except Exception as error:  # noqa: BLE001 (whatever this version of hf_xet says to a local store)
        pytest.skip(f"this hf_xet has no local store: {error}")


def test_xet_files_come_over_plain_http_with_resume(xet_hub, registry):
    xet_hub.faults.drop_after[UNET] = [100_000]
    assert_complete(xet_hub, make_downloader(xet_hub, registry).start(REPOSITORY).result(180))
    assert xet_hub.gets(UNET)[-1].first_byte > 0


def test_xet_download_is_complete_and_verified(xet_hub, registry):
    downloader = make_downloader(xet_hub, registry, options=VIA_XET)
    assert_complete(xet_hub, downloader.start(REPOSITORY).result(180))
    assert xet_hub.fetched(UNET) == 0, "the bytes came through hf_xet"
    assert registry.is_downloaded(REPOSITORY)
    assert partial_files(registry.cache_dir) == []


def test_file_that_plain_http_refuses_comes_through_xet(xet_hub, registry):
    xet_hub.faults.xet_only.add(UNET)
    assert_complete(xet_hub, make_downloader(xet_hub, registry).start(REPOSITORY).result(180))
    assert xet_hub.fetched(UNET) == 0
    assert partial_files(registry.cache_dir) == []


def test_cancel_during_xet_is_at_once_and_leaves_no_orphan(tmp_path, registry):
    with FakeHub({REPOSITORY: tiny_repository(12_000_000)}) as hub:
        enable(hub, tmp_path)
        downloader = make_downloader(hub, registry, options=VIA_XET)
        for pause_s in (0.0, 0.1):
            download = downloader.start(REPOSITORY)
            wait_until(
                lambda d=download: d.progress.completed_bytes > 1_000_000 or bool(orphans(registry)) or d.done
            )
            time.sleep(pause_s)  # sleep: two moments of the transfer
            started = time.monotonic()
            download.cancel()
            assert time.monotonic() - started < cancel_limit_s()
            assert orphans(registry) == []
        assert_complete(hub, downloader.start(REPOSITORY).result(180))


def test_delete_frees_files_in_the_shared_store(xet_hub, registry):
    import asyncio

    downloader = make_downloader(xet_hub, registry, options=VIA_XET)
    downloader.start(REPOSITORY).result(180)
    size_bytes = registry.downloaded_model(REPOSITORY).size_bytes
    assert asyncio.run(downloader.delete_model(REPOSITORY)) == size_bytes
    weights = [p for p in registry.cache_dir.rglob("*") if p.is_file() and p.stat().st_size > 1000]
    assert weights == []
