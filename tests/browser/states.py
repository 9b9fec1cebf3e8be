"""Screenshots of the widget in twelve states, each in light, dark and in a narrow page, with the bundled model.

    python -m tests.browser.states [FOLDER]

They go to build/screenshots/states, or to FOLDER; a sheet of each look goes to docs/images. Look at them before
you commit what makes them.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import SCREENSHOTS, _launch
from tests.browser.jupyter import PROJECT, JupyterServer, NotebookPage, write_notebook
from tests.browser.widget_page import Card

SETUP = "from swiftai_nb import ImagineWidget\nwidget = ImagineWidget(seed=11)\nwidget"
DOCS = PROJECT / "docs" / "images"
SHEET_WIDTH = 2000
MAX_SHEET_BYTES = 250_000
SIZES = {"light": (1240, 860, False), "dark": (1240, 860, True), "420": (420, 860, False)}


@dataclass
class Stage:
    """A page with the widget, as the states find and leave it."""

    notebook: NotebookPage
    card: Card

    def press(self, name: str) -> None:
        self.card.button(name).click()

    def open_more(self) -> None:
        more = self.card.root.locator("details.more")
        if more.get_attribute("open") is None:
            more.locator("summary").click()


def empty(_: Stage) -> None:
    """Before the first picture."""


def refused(stage: Stage) -> None:
    stage.open_more()
    stage.press("Custom")
    stage.card.root.get_by_label("Width").fill("100")
    stage.card.root.locator(".error-note .chip").first.wait_for()


def picture(stage: Stage) -> None:
    stage.press("Auto")
    stage.card.root.locator("details.more summary").click()
    stage.card.imagine("a fox in the snow")
    stage.card.wait_pictures(1)
    stage.card.wait_scene("picture")


def running(stage: Stage) -> None:
    stage.open_more()
    stage.card.root.get_by_label("Steps", exact=True).fill("400")
    stage.card.imagine("a rocket at night")
    stage.card.confirm()
    stage.card.root.locator(".queue li").first.wait_for(state="attached")
    stage.card.imagine("a sunflower")
    stage.card.confirm()
    stage.card.wait_step(20)


def cancelled(stage: Stage) -> None:
    stage.press("Cancel: a sunflower")
    stage.press("Cancel")
    stage.card.wait_scene("cancelled")
    stage.card.root.get_by_label("Steps", exact=True).fill("")


def tiles(stage: Stage) -> None:
    stage.open_more()
    stage.card.root.get_by_label("Pictures", exact=True).fill("4")
    stage.card.root.get_by_label("Seed", exact=True).fill("")
    stage.card.imagine("a castle")  # no place is named: the seeds choose different ones
    stage.card.wait_scene("tiles")
    stage.card.root.get_by_label("Pictures", exact=True).fill("")
    stage.card.root.locator("details.more summary").click()


def compare(stage: Stage) -> None:
    stage.card.root.locator(".tile").nth(2).click()
    stage.press("Compare")


def mask(stage: Stage) -> None:
    stage.press("Done")
    stage.card.root.locator(".tile").last.click()
    stage.press("Edit this")
    stage.card.wait_scene("start")
    paint(stage.card)


def edited(stage: Stage) -> None:
    stage.card.imagine("a fox with sunglasses")
    stage.card.wait_scene("picture")
    stage.card.root.locator(".versions").wait_for()


def picker(stage: Stage) -> None:
    stage.card.root.locator(".model-button").click()


def large(stage: Stage) -> None:
    stage.card.root.locator(".model-button").click()
    stage.card.root.locator(".layers").dblclick()
    stage.card.root.locator("dialog[open]").wait_for()


def searching(stage: Stage) -> None:
    stage.notebook.page.keyboard.press("f")
    stage.notebook.page.keyboard.press("Escape")
    stage.card.root.get_by_label("Search these pictures").fill("fox")


STATES: tuple[Callable[[Stage], None], ...] = (
    empty, refused, picture, running, cancelled, tiles, compare, mask, edited, picker, large, searching,
)  # fmt: skip


def paint(card: Card) -> None:
    """Paints a stroke across the start picture."""
    box = card.root.locator("canvas.mask").bounding_box()
    assert box is not None
    mouse = card.page.mouse
    mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4)
    mouse.down()
    for part in range(1, 9):
        mouse.move(box["x"] + box["width"] * (0.3 + part * 0.05), box["y"] + box["height"] * 0.4)
    mouse.up()


def visit(stage: Stage) -> Iterator[str]:
    """Goes through the states; gives the name of each when it is there."""
    for state in STATES:
        state(stage)
        stage.notebook.page.wait_for_timeout(450)  # sleep: the card's CSS transitions take 0.3 s
        yield state.__name__


def main(folder: Path) -> None:
    """Leaves a PNG for each state and look, and a sheet of each look."""
    folder.mkdir(parents=True, exist_ok=True)
    shots: dict[tuple[str, str], Image.Image] = {}
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        server = JupyterServer(Path(home), kernels={"python3": Path(sys.executable)})
        browser = _launch(playwright)
        if browser is None:
            raise SystemExit("no Chromium here")
        try:
            server.wait()
            for look, (width, height, is_dark) in SIZES.items():
                path = write_notebook(server.root / f"{look}.ipynb", [SETUP])
                context = browser.new_context()
                page = NotebookPage(context, server, path, width=width, height=height, dark=is_dark)
                page.command("application:toggle-left-area")
                page.run_all(wait=True)
                stage = Stage(page, Card(page.page))
                for name in visit(stage):
                    data = page.page.screenshot()
                    (folder / f"{name}-{look}.png").write_bytes(data)
                    shots[name, look] = Image.open(io.BytesIO(data)).convert("RGB")
                page.close()
        finally:
            server.stop()
            browser.close()
    for look in SIZES:
        write_sheet(DOCS / f"widget-states-{look}.webp", [shots[state.__name__, look] for state in STATES])


def write_sheet(path: Path, shots: list[Image.Image]) -> None:
    """All states in one look, four in a row, in a file of at most 250 kB."""
    width = SHEET_WIDTH // 4
    small = [shot.resize((width, round(shot.height * width / shot.width))) for shot in shots]
    height = small[0].height
    board = Image.new("RGB", (SHEET_WIDTH, height * 3), "white")
    for number, shot in enumerate(small):
        board.paste(shot, (number % 4 * width, number // 4 * height))
    for quality in (80, 70, 60, 50, 40):
        board.save(path, quality=quality, method=6)
        if path.stat().st_size <= MAX_SHEET_BYTES:
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SCREENSHOTS / "states")
