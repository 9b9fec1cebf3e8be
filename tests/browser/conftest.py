"""Real front ends: one Jupyter server and one headless Chromium for all tests of this folder.

Without a browser the tests are skipped on a developer's machine and fail in CI (the variable CI set to
"true"), so that nobody takes a skipped run for a passed one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright_api = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, BrowserContext, Error, Playwright, sync_playwright  # noqa: E402

from tests.browser.jupyter import (  # noqa: E402
    JupyterServer,
    NotebookPage,
    OpenNotebook,
    write_notebook,
)
from tests.ipykernels import old_ipykernel_python  # noqa: E402

OLD_IPYKERNEL = "6.31.0"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SCREENSHOTS = Path(os.environ.get("SWIFTAI_SCREENSHOTS", Path(__file__).parents[2] / "build" / "screenshots"))


def unavailable(reason: str) -> None:
    """Skips here, fails in CI."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Ends with this folder: while Playwright runs, so does its event loop, and asyncio.run needs none."""
    with sync_playwright() as playwright:
        chromium = _launch(playwright)
        if chromium is None:
            unavailable("no Chromium: install Debian's package chromium, or run: playwright install chromium")
            return
        yield chromium
        chromium.close()


def _launch(playwright: Playwright) -> Browser | None:
    found = [path for name in CHROMIUM_NAMES if (path := shutil.which(name))]
    for path in [*found, None]:  # None: Playwright's own
        try:
            return playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except Error:
            continue
    return None


@pytest.fixture(scope="package")
def kernels() -> dict[str, Path]:
    """Kernel names -> Python; "ipykernel6" is there when it could be installed."""
    pythons = {"python3": Path(sys.executable)}
    try:
        pythons["ipykernel6"] = old_ipykernel_python(OLD_IPYKERNEL)
    except (subprocess.SubprocessError, OSError):
        if os.environ.get("CI", "").lower() == "true":
            raise
    return pythons


@pytest.fixture(scope="package")
def jupyter_server(
    tmp_path_factory: pytest.TempPathFactory, kernels: dict[str, Path], browser: Browser
) -> Iterator[JupyterServer]:
    server = JupyterServer(tmp_path_factory.mktemp("jupyter"), kernels=kernels)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="package")
def contexts(browser: Browser) -> dict[bool, BrowserContext]:
    """Whether the screen is touched -> the context of such pages."""
    return {has_touch: browser.new_context(has_touch=has_touch) for has_touch in (False, True)}


@pytest.fixture
def open_notebook(
    contexts: dict[bool, BrowserContext], jupyter_server: JupyterServer, kernels: dict[str, Path]
) -> Iterator[OpenNotebook]:
    """`open_notebook(cells, app=..., kernel=..., dark=..., width=...)` -> NotebookPage, closed afterwards."""
    opened: list[NotebookPage] = []
    numbers = itertools.count(1)

    def open_one(
        cells: list[str] | Path, *, kernel: str = "python3", has_touch: bool = False, **options: object
    ) -> NotebookPage:
        if kernel not in kernels:
            unavailable(f"{kernel} could not be installed")
        if isinstance(cells, Path):
            path = cells
        else:
            name = f"{os.urandom(4).hex()}-{next(numbers)}.ipynb"
            path = write_notebook(jupyter_server.root / name, cells, kernel=kernel)
        page = NotebookPage(contexts[has_touch], jupyter_server, path, **options)
        opened.append(page)
        return page

    yield open_one
    for page in opened:
        page.close()


@pytest.fixture
def screenshots() -> Path:
    """Where pictures of pages go: build/screenshots, never committed from there."""
    return SCREENSHOTS
