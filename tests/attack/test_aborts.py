"""The aborts, few: each kind once; `python -m tests.attack.aborts` runs 50."""

from __future__ import annotations

import sys

import pytest

from tests.attack.aborts import Aborts
from tests.downloads.conftest import REPOSITORY
from tests.downloads.fake_hub import FakeHub, tiny_repository


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's files")
@pytest.mark.parametrize("kind", ["worker_killed", "kernel_killed", "connection_cut", "disk_full"])
def test_an_aborted_download_leaves_nothing_behind_and_the_next_succeeds(kind: str) -> None:
    with FakeHub({REPOSITORY: tiny_repository()}) as hub:
        Aborts(hub, seed=2).run(kind)
