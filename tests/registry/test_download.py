from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from pathlib import Path

import pytest

from swiftai_nb.core.errors import DownloadCancelledError, InvalidInputError, ModelNotFoundError, NetworkError
from swiftai_nb.registry.downloader import DiffusionModelDownloader
from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.registry import DiffusionModelRegistry
from swiftai_nb.registry.variants import DiffusionVariant
from tests.registry.conftest import (
    REPOSITORY,
    TEXT_ENCODER,
    UNET,
    VAE,
    assert_complete,
    make_downloader,
    partial_files,
    until,
)
from tests.registry.fake_hub import FakeHub, tiny_repository


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
    until(lambda: download.progress.total_bytes > 0)
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
    assert max(b - a for a, b in itertools.pairwise(stamps)) < 1.5  # 0.25 s, on a busy machine
    assert len(seen) >= 2 * (stamps[-1] - stamps[0]) * 0.7
    busy = [p for p in seen if p.phase == "downloading"]
    assert any(p.bytes_per_s > 0 and p.eta_s is not None for p in busy)
    assert all(0.0 <= p.fraction_completed < 1.0 for p in seen[:-1])
    assert seen[-1].fraction_completed == 1.0
    assert "left" in str(busy[-2]) or "MB" in str(busy[-2])


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
        await asyncio.sleep(1.0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert_complete(hub, asyncio.run(two_ask_one_leaves()))


def test_when_the_last_asker_leaves_the_download_ends(hub, downloader):
    hub.faults.hang.add(UNET)

    async def ask_and_leave():
        task = asyncio.create_task(downloader.download(REPOSITORY))
        while not downloader.active_downloads:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask_and_leave())
    assert downloader.active_downloads == ()


def test_cancel_reaches_everybody_who_waits(hub, downloader):
    hub.faults.hang.add(UNET)

    async def ask_twice_and_cancel():
        tasks = [asyncio.create_task(downloader.download(REPOSITORY)) for _ in range(2)]
        while downloader.active_download(REPOSITORY) is None:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert downloader.cancel_download(REPOSITORY) is True
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(ask_twice_and_cancel())
    assert [type(r) for r in results] == [DownloadCancelledError] * 2
    assert downloader.cancel_download(REPOSITORY) is False


def test_partial_download_is_told_apart_from_a_complete_one(hub, registry, downloader):
    hub.faults.hang_after[UNET] = 120_000
    download = downloader.start(REPOSITORY)
    until(lambda: hub.fetched(UNET) >= 120_000 and hub.fetched(VAE) == len(tiny_repository()[VAE]))
    time.sleep(0.3)
    download.cancel()
    found = registry.on_disk(REPOSITORY)
    assert found.state is DiskState.PARTIAL
    assert found.size_bytes >= 100_000
    assert UNET in found.missing
    assert not registry.is_downloaded(REPOSITORY)
    assert registry.all_downloaded_models == []


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


def test_other_tools_find_the_cache_complete(hub, registry, downloader):
    """huggingface_hub itself takes our files as its own: not one of them is fetched again."""
    from huggingface_hub import scan_cache_dir, snapshot_download

    folder = asyncio.run(downloader.download(REPOSITORY))
    hub.requests.clear()
    again = snapshot_download(
        REPOSITORY,
        allow_patterns=["*.json", "*.txt", "*.fp16.safetensors"],
        cache_dir=registry.cache_dir,
        endpoint=hub.url,
        token=False,
    )
    assert Path(again) == folder
    assert hub.gets() == []
    scan = scan_cache_dir(registry.cache_dir)
    assert scan.warnings == []
    assert [(r.repo_id, len(r.revisions)) for r in scan.repos] == [(REPOSITORY, 1)]
    assert next(iter(scan.repos)).refs.keys() == {"main"}


def test_files_another_tool_fetched_are_not_fetched_again(hub, registry, downloader):
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPOSITORY, UNET, cache_dir=registry.cache_dir, endpoint=hub.url, token=False)
    hub.requests.clear()
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))
    assert hub.fetched(UNET) == 0


def test_file_systems_without_links_get_plain_files(hub, registry, downloader, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    folder = asyncio.run(downloader.download(REPOSITORY))
    assert_complete(hub, folder)
    assert not any(p.is_symlink() for p in folder.rglob("*"))
    assert registry.is_downloaded(REPOSITORY)


def test_identical_files_of_a_model_are_kept_once(hub, registry, downloader):
    same = hub.repositories[REPOSITORY][TEXT_ENCODER]
    hub.repositories[REPOSITORY]["text_encoder_2/model.fp16.safetensors"] = same
    folder = asyncio.run(downloader.download(REPOSITORY))
    assert (folder / "text_encoder_2/model.fp16.safetensors").read_bytes() == same
    sent = hub.fetched(TEXT_ENCODER) + hub.fetched("text_encoder_2/model.fp16.safetensors")
    assert sent == len(same)


def test_mirror_that_lists_names_only_is_asked_for_each_file(hub, registry, downloader):
    hub.faults.no_metadata = True
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))


def test_a_path_that_leaves_the_model_folder_is_refused(hub, registry, downloader):
    hub.faults.extra_listed.append("unet/../../../../evil.json")
    hub.faults.extra_listed.append("vae/..\\evil.json")
    with pytest.raises(Exception, match="unsafe path"):
        asyncio.run(downloader.download(REPOSITORY))
    assert not list(registry.cache_dir.rglob("evil*"))


def test_large_files_on_another_host_never_see_the_token(hub, registry):
    hub.use_cdn()
    downloader = make_downloader(hub, registry, token="hf_goodtoken")
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))
    assert hub.cdn is not None
    assert hub.cdn.requests
    assert all("Authorization" not in r.headers for r in hub.cdn.requests)
    assert any(r.headers.get("Authorization") == "Bearer hf_goodtoken" for r in hub.requests)


def test_token_is_in_no_command_line_log_or_error(hub, registry, tmp_path):
    token = "hf_verysecrettoken"
    hub.faults.hang.add(UNET)
    downloader = make_downloader(hub, registry, token=token)
    download = downloader.start(REPOSITORY)
    until(lambda: download.progress.total_bytes > 0)
    command = Path(f"/proc/{download.pid}/cmdline")
    if command.exists():
        assert token.encode() not in command.read_bytes()
        assert token.encode() not in Path(f"/proc/{download.pid}/environ").read_bytes()
    download.cancel()
    assert token not in repr(download.job)
    stored = [p for folder in ("home", "cache") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert all(token.encode() not in p.read_bytes() for p in stored)


def test_token_with_a_line_break_fails_without_showing_it(hub, registry):
    downloader = make_downloader(hub, registry, token="hf_secret\nhf_second")
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any error will do: its words are the point)
        asyncio.run(downloader.download(REPOSITORY))
    assert "secret" not in str(caught.value)
    assert "second" not in str(caught.value)


def test_a_module_next_to_the_notebook_does_not_end_up_in_the_child(hub, downloader, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('the user\\'s own module')")
    monkeypatch.chdir(tmp_path)
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))


def test_fallback_repository_serves_when_the_first_is_gone(tmp_path):
    from dataclasses import replace

    with FakeHub({"org/copy": tiny_repository()}) as hub:
        registry = DiffusionModelRegistry(home=tmp_path / "h", cache_dir=tmp_path / "c")
        entry = registry.add_repository("org/gone", variant=DiffusionVariant.SD_15, id="mine")
        registry.add_custom(replace(entry, fallback_repositories=("org/copy",)))
        asyncio.run(make_downloader(hub, registry).download("mine"))
        assert registry.on_disk("mine").repository == "org/copy"
        assert registry.is_downloaded("mine")


def test_delete_frees_the_disk_and_cancels_first(hub, registry, downloader):
    asyncio.run(downloader.download(REPOSITORY))
    size = registry.downloaded_model(REPOSITORY).size_bytes
    freed = asyncio.run(downloader.delete_model(REPOSITORY))
    assert freed == size
    assert not registry.is_downloaded(REPOSITORY)
    left = [p for p in registry.cache_dir.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []


def test_delete_leaves_files_other_tools_fetched(hub, registry, downloader):
    from huggingface_hub import hf_hub_download

    asyncio.run(downloader.download(REPOSITORY))
    common = {"cache_dir": registry.cache_dir, "endpoint": hub.url, "token": False}
    other = hf_hub_download(REPOSITORY, "whole.safetensors", **common)
    asyncio.run(downloader.delete_model(REPOSITORY))
    assert Path(other).read_bytes() == hub.repositories[REPOSITORY]["whole.safetensors"]


def test_download_record_on_disk_holds_what_the_hub_announced(hub, registry, downloader):
    asyncio.run(downloader.download(REPOSITORY))
    record = next((registry.home / "manifests").glob("*.json"))
    data = json.loads(record.read_text())
    assert data["repository"] == REPOSITORY
    unet = next(f for f in data["files"] if f["path"] == UNET)
    assert unet["size_bytes"] == len(tiny_repository()[UNET])
    assert unet["is_exact"] is True


def test_downloader_without_arguments_uses_the_shared_registry():
    assert DiffusionModelDownloader().registry is DiffusionModelRegistry.shared


class _Measured:
    """A download's face towards the recorder."""

    def __init__(self):
        self.listeners, self.endings = [], []

    def subscribe(self, handler):
        self.listeners.append(handler)

    def when_over(self, action):
        self.endings.append(action)


@pytest.mark.parametrize(
    ("received", "seconds", "kept"), [(50_000_000, 5.0, 10_000_000.0), (1_000, 5.0, None)]
)
def test_speed_is_kept_when_enough_came_to_measure_it(registry, monkeypatch, received, seconds, kept):
    from swiftai_nb.registry import speed_recorder
    from swiftai_nb.registry.download_progress import DownloadProgress

    download = _Measured()
    speed_recorder.SpeedRecorder(registry.choices, download)
    for at_s, here in ((100.0, 500), (100.0 + seconds, 500 + received)):
        monkeypatch.setattr(speed_recorder.time, "monotonic", lambda at_s=at_s: at_s)
        download.listeners[0](DownloadProgress("x", "downloading", here, 10**9))
    download.endings[0]()
    assert registry.choices.last_bytes_per_s == kept
