from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from swiftai_nb.core.errors import (
    AIError,
    DownloadCancelledError,
    InvalidInputError,
    ModelNotFoundError,
    NetworkError,
)
from swiftai_nb.downloads.downloader import DiffusionModelDownloader
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.conftest import (
    REPOSITORY,
    TEXT_ENCODER,
    UNET,
    VAE,
    assert_complete,
    cancel_limit_s,
    make_downloader,
    partial_files,
)
from tests.downloads.fake_hub import FakeHub, tiny_repository
from tests.waiting import wait_until


def test_download_returns_folder_with_exact_files(hub, registry, downloader):
    folder = asyncio.run(downloader.download(REPOSITORY))
    assert_complete(hub, folder)
    assert registry.is_downloaded(REPOSITORY)
    assert registry.local_path(REPOSITORY) == folder
    assert not partial_files(registry.cache_dir)


def test_usage_of_the_proposal_works_for_an_unregistered_repository(hub, tmp_path):
    registry = DiffusionModelRegistry(home=tmp_path / "h", cache_dir=tmp_path / "c")
    downloader = make_downloader(hub, registry)
    folder = asyncio.run(downloader.download(REPOSITORY, variant=DiffusionVariant.SD_15))
    assert_complete(hub, folder)
    assert registry.find(REPOSITORY).is_custom
    assert [m.id for m in registry.all_downloaded_models] == [REPOSITORY]
    assert registry.resolve(REPOSITORY).folder == folder


def test_unknown_repository_needs_a_variant(hub, tmp_path):
    registry = DiffusionModelRegistry(home=tmp_path / "h", cache_dir=tmp_path / "c")
    with pytest.raises(InvalidInputError, match="family"):
        asyncio.run(make_downloader(hub, registry).download(REPOSITORY))
    with pytest.raises(ModelNotFoundError):
        asyncio.run(make_downloader(hub, registry).download("nothing-like-it"))
    assert hub.requests == []


def test_complete_model_is_returned_without_any_request(hub, registry, downloader):
    first = asyncio.run(downloader.download(REPOSITORY))
    hub.requests.clear()
    seen = []
    assert asyncio.run(downloader.download(REPOSITORY, progress_handler=seen.append)) == first
    assert hub.requests == []
    assert [p.fraction_completed for p in seen] == [1.0]


def test_size_is_known_before_the_first_byte_of_a_file(hub, registry, downloader):
    hub.faults.hang.update({UNET, VAE, TEXT_ENCODER})
    download = downloader.start(REPOSITORY)
    wait_until(lambda: download.progress.total_bytes > 0)
    wanted = [p for p in tiny_repository() if p.endswith((".fp16.safetensors", ".json", ".txt"))]
    assert download.progress.total_bytes == sum(len(tiny_repository()[p]) for p in wanted)
    download.cancel()


def test_progress_comes_often_and_never_goes_back(hub, downloader):
    hub.faults.throttle_bps = 100_000
    hub.faults.drop_after[UNET] = [100_000]
    seen = []
    stamps = []

    def note(progress):
        seen.append(progress)
        stamps.append(time.monotonic())

    asyncio.run(downloader.download(REPOSITORY, progress_handler=note))
    amounts = [p.completed_bytes for p in seen]
    assert amounts == sorted(amounts)
    longest_s = max(b - a for a, b in itertools.pairwise(stamps))
    assert longest_s < 5 * cancel_limit_s()  # half a second is the aim, not what a busy machine keeps
    assert len(seen) >= stamps[-1] - stamps[0]
    busy = [p for p in seen if p.phase == "downloading"]
    assert any(p.bytes_per_s > 0 and p.eta_s is not None for p in busy)
    assert all(0.0 <= p.fraction_completed < 1.0 for p in seen[:-1])
    assert seen[-1].fraction_completed == 1.0
    assert any("/s" in str(p) and "left" in str(p) for p in busy)


def test_all_who_ask_share_one_download(hub, downloader):
    hub.faults.throttle_bps = 200_000

    async def ask_three_times():
        return await asyncio.gather(*(downloader.download(REPOSITORY) for _ in range(3)))

    folders = asyncio.run(ask_three_times())
    assert len(set(folders)) == 1
    assert hub.fetched(UNET) == len(tiny_repository()[UNET])


def test_two_asking_at_the_same_moment_from_threads_start_one_child(hub, downloader):
    hub.faults.hang.add(UNET)
    started = []
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        started.append(downloader.start(REPOSITORY))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({d.pid for d in started}) == 1
    started[0].cancel()


def test_leaving_one_asker_keeps_the_download_for_the_other(hub, downloader):
    hub.faults.throttle_bps = 150_000

    async def two_ask_one_leaves():
        first = asyncio.create_task(downloader.download(REPOSITORY))
        second = asyncio.create_task(downloader.download(REPOSITORY))
        await asyncio.to_thread(wait_until, lambda: hub.fetched(UNET) > 0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert_complete(hub, asyncio.run(two_ask_one_leaves()))


def test_when_the_last_asker_leaves_the_download_ends(hub, downloader):
    hub.faults.hang.add(UNET)

    async def ask_and_leave():
        task = asyncio.create_task(downloader.download(REPOSITORY))
        await asyncio.to_thread(wait_until, lambda: any(r.file == UNET for r in hub.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask_and_leave())
    assert downloader.active_downloads == ()


def test_cancel_reaches_everybody_who_waits(hub, downloader):
    hub.faults.hang.add(UNET)

    async def ask_twice_and_cancel():
        tasks = [asyncio.create_task(downloader.download(REPOSITORY)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: any(r.file == UNET for r in hub.requests))
        assert downloader.cancel_download(REPOSITORY) is True
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(ask_twice_and_cancel())
    assert [type(r) for r in results] == [DownloadCancelledError] * 2
    assert downloader.cancel_download(REPOSITORY) is False


def test_offline_mode_returns_what_is_complete_and_refuses_the_rest(hub, registry, downloader, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError, match="offline mode"):
        asyncio.run(downloader.download(REPOSITORY))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = asyncio.run(downloader.download(REPOSITORY))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert asyncio.run(downloader.download(REPOSITORY)) == folder
    assert hub.requests == []


def test_bundled_models_and_folders_need_no_download(downloader):
    with pytest.raises(InvalidInputError, match="ships with the package"):
        downloader.start("emoji-mini")


def test_state_folder_that_cannot_be_written_does_not_stop_a_download(hub, registry, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    blocked = DiffusionModelRegistry(home=tmp_path / "file", cache_dir=registry.cache_dir)
    downloader = make_downloader(hub, blocked)
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY, variant="sd-1.5")))
    with pytest.raises(AIError, match="cannot write"):
        blocked.default_model = "emoji-mini"


def test_listener_that_fails_does_not_end_the_download(hub, downloader):
    def fail(_progress):
        raise RuntimeError("the listener's own trouble")

    download = downloader.start(REPOSITORY)
    download.subscribe(fail)
    assert_complete(hub, download.result(180))


def test_size_of_an_own_entry_is_known_after_the_hub_was_asked(hub, registry, downloader):
    asyncio.run(downloader.download(REPOSITORY))
    assert registry.find(REPOSITORY).size_bytes == registry.downloaded_model(REPOSITORY).size_bytes


def test_bundled_model_and_own_folder_are_returned_as_they_are(downloader):
    folder = asyncio.run(downloader.download("emoji-mini"))
    assert (folder / "model_index.json").is_file()


def test_fallback_repository_serves_when_the_first_is_gone(tmp_path):
    from dataclasses import replace

    with FakeHub({"org/copy": tiny_repository()}) as hub:
        registry = DiffusionModelRegistry(home=tmp_path / "h", cache_dir=tmp_path / "c")
        entry = registry.add_repository("org/gone", variant=DiffusionVariant.SD_15, id="mine")
        registry.add_custom(replace(entry, fallback_repositories=("org/copy",)))
        asyncio.run(make_downloader(hub, registry).download("mine"))
        assert registry.on_disk("mine").repository == "org/copy"
        assert registry.is_downloaded("mine")


def test_downloader_without_arguments_uses_the_shared_registry():
    assert DiffusionModelDownloader().registry is DiffusionModelRegistry.shared


@pytest.mark.parametrize(
    ("received", "seconds", "kept"), [(50_000_000, 5.0, 10_000_000.0), (1_000, 5.0, None)]
)
def test_speed_is_kept_when_enough_came_to_measure_it(registry, monkeypatch, received, seconds, kept):
    from swiftai_nb.downloads import progress
    from swiftai_nb.downloads.progress import DownloadProgress, SpeedRecorder

    recorder = SpeedRecorder(registry.user_config)
    for at_s, here in ((100.0, 500), (100.0 + seconds, 500 + received)):
        monkeypatch.setattr(progress.time, "monotonic", lambda at_s=at_s: at_s)
        recorder.note(DownloadProgress("x", "downloading", here, 10**9))
    recorder.save()
    assert registry.user_config.last_bytes_per_s == kept
