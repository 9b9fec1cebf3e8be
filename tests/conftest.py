"""Order of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

BROWSER = Path(__file__).parent / "browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: Playwright keeps an event loop running for the session, and asyncio.run needs none."""
    items.sort(key=lambda item: BROWSER in item.path.parents)
