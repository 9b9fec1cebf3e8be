from __future__ import annotations

import asyncio

from tests.registry.conftest import REPOSITORY, assert_complete, partial_files


def test_download_returns_folder_with_exact_files(hub, registry, downloader):
    seen = []
    folder = asyncio.run(downloader.download(REPOSITORY, progress_handler=seen.append))
    assert_complete(hub, folder)
    assert registry.is_downloaded(REPOSITORY)
    assert registry.local_path(REPOSITORY) == folder
    assert not partial_files(registry.cache_dir)
    assert seen[-1].phase == "done"
    assert seen[-1].fraction_completed == 1.0
