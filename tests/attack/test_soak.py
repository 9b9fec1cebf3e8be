"""The soak, small: the same promises in a few seconds; `make soak` runs it at full length."""

from __future__ import annotations

import sys

import pytest

from tests.attack.soak import Soak


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_jobs_cancels_errors_and_kills_leave_nothing_behind(tmp_path):
    soak = Soak(tmp_path, seed=3)
    try:
        for kind in ("picture", "cancel", "error", "cancel", "picture"):
            getattr(soak, f"_{kind}")()
        soak.kill(2)
    finally:
        soak.close()
