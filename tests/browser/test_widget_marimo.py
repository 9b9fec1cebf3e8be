"""The widget in marimo, a notebook without Jupyter: no comm targets, no `display`, a shadow DOM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.widget_page import Card
from tests.waiting import wait_until

pytest.importorskip("marimo")

PROJECT = Path(__file__).parents[2]
NOTEBOOK = """\
import marimo

app = marimo.App()


@app.cell
def _():
    import marimo as mo
    from tests.browser.widget_kernel import prepare

    session = prepare()
    from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget

    card = mo.ui.anywidget(ImagineWidget(prompt="a fox in the snow"))
    card
    return


if __name__ == "__main__":
    app.run()
"""


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def marimo_url(tmp_path: Path) -> Iterator[str]:
    notebook = tmp_path / "notebook.py"
    notebook.write_text(NOTEBOOK)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SWIFTAI_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port), str(notebook)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_until(lambda: server.poll() is not None or answers(url), 90, message="marimo's server")
            yield url
        finally:
            server.terminate()
            server.wait(30)


def test_prompt_becomes_a_picture_and_cancel_answers(
    browser: Browser, marimo_url: str, screenshots: Path
) -> None:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(marimo_url)
    card = Card(page)
    card.watch()
    card.button("Imagine").click()
    card.wait_scene("picture")
    card.wait_pictures(1)
    page.wait_for_function("() => window.frames_seen.length >= 5")
    assert len(set(card.frames)) == len(card.frames)
    card.imagine("a dog")
    card.wait_step(2)
    assert card.cancel_latency_ms() < 100
    card.wait_scene("cancelled")
    assert card.root.get_attribute("data-tone") == "light"
    card.screenshot(screenshots, "marimo")
    page.close()
