from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from swiftai_nb.registry.hub_cache import DiskState
from tests.downloads.conftest import (
    REPOSITORY,
    TEXT_ENCODER,
    UNET,
    assert_complete,
    make_downloader,
    partial_files,
    partial_sizes,
)
from tests.downloads.fake_hub import tiny_repository
from tests.waiting import wait_until


def test_partial_download_is_told_apart_from_a_complete_one(hub, registry, downloader):
    hub.faults.hang_after[UNET] = 120_000
    download = downloader.start(REPOSITORY)
    wait_until(lambda: partial_sizes(registry.cache_dir) == [120_000])
    download.cancel()
    found = registry.on_disk(REPOSITORY)
    assert found.state is DiskState.PARTIAL
    assert found.size_bytes >= 100_000
    assert UNET in found.missing
    assert not registry.is_downloaded(REPOSITORY)
    assert registry.all_downloaded_models == []


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


def test_empty_files_are_files_too(hub, downloader):
    hub.repositories[REPOSITORY]["tokenizer/special_tokens_map.json"] = b""
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))


def test_finished_bytes_that_were_not_yet_put_in_place_are_not_fetched_again(hub, registry, downloader):
    """The child was killed between the last byte and the renaming."""
    asyncio.run(downloader.download(REPOSITORY))
    pointer = registry.local_path(REPOSITORY) / UNET
    blob = pointer.resolve()
    blob.rename(blob.with_name(f"{blob.name}.swiftai.incomplete"))
    pointer.unlink()
    hub.requests.clear()
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))
    assert hub.gets() == []


def test_another_tool_fetching_at_the_same_time_shares_every_file(hub, registry, downloader):
    hub.faults.throttle_bps = 400_000
    code = (
        "import sys; from huggingface_hub import snapshot_download\n"
        "snapshot_download(sys.argv[1], endpoint=sys.argv[2], cache_dir=sys.argv[3], token=False,\n"
        "                  allow_patterns=['*.json', '*.txt', '*.fp16.safetensors'])\n"
    )
    arguments = [REPOSITORY, hub.url, str(registry.cache_dir)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    other = subprocess.Popen([sys.executable, "-c", code, *arguments], **quiet)
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))
    assert other.wait(180) == 0
    for path, data in hub.repositories[REPOSITORY].items():
        assert hub.fetched(path) in (0, len(data)), path
    assert partial_files(registry.cache_dir) == []


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
    wait_until(lambda: download.progress.total_bytes > 0)
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
