"""Order of the suite, and what pytest-xdist (`-n 2 --dist loadfile`) keeps in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BROWSER = Path(__file__).parent / "browser"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Browser tests last in one process; first in several, where the longest has to start first."""
    is_distributed = hasattr(config, "workerinput")
    items.sort(key=lambda item: (BROWSER in item.path.parents) != is_distributed)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share a process, as their fixtures do; those of a page share one server and one browser."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "tests/browser" if file.startswith("tests/browser/") else file

    return Scheduler(config, log) if config.getoption("dist") == "loadfile" else None
