"""Makes the pictures of the widget in docs/images from a real page and the bundled model.

    python -m tests.browser.film

Run it again when the card or the model changed, and look at the result before committing it.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import _launch
from tests.browser.jupyter import PROJECT, JupyterServer, NotebookPage, write_notebook
from tests.browser.states import paint
from tests.browser.widget_page import Card

FOLDER = PROJECT / "docs" / "images"
SETUP = "from swiftai_nb import ImagineWidget\nwidget = ImagineWidget(seed=11)\nwidget"
PROMPTS = ("a sunflower", "a rocket in space", "a hamburger", "a penguin in snow")
STAR = "a fox in the snow"
LOAD, COUNT = "%load_ext swiftai_nb", "%imagine a cat --count 4 --seed 3"
FILM_WIDTH = 720
STILL_WIDTH = 900
LIMITS_BYTES = {"film": 400_000, "still": 60_000}


def main() -> None:
    """Starts a server and a browser, and leaves the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        import sys

        server = JupyterServer(Path(folder), kernels={"python3": Path(sys.executable)})
        browser = _launch(playwright)
        if browser is None:
            raise SystemExit("no Chromium here")
        try:
            server.wait()
            path = write_notebook(server.root / "film.ipynb", [SETUP, "1"])
            page = NotebookPage(browser.new_context(), server, path, width=1240, height=1000)
            page.command("application:toggle-left-area")
            page.run_all(wait=True)
            card = Card(page.page)
            card.root.evaluate("e => { e.style.width = '900px'; }")
            record(page, card)
            page.close()
            path = write_notebook(server.root / "cell.ipynb", [LOAD, COUNT])
            page = NotebookPage(browser.new_context(), server, path, width=1240, height=700)
            page.command("application:toggle-left-area")
            page.run_all(wait=True)
            several(page)
        finally:
            server.stop()
            browser.close()


def record(page: NotebookPage, card: Card) -> None:
    """The film first, then one still of each state."""
    still(card, "widget-empty")
    card.imagine("a cat")  # starts the engine, so that the film shows drawing
    card.wait_pictures(1)
    frames = [(shot(card), 500)]
    for end in (5, 12, len(STAR)):
        card.write(STAR[:end])
        frames.append((shot(card), 220))
    card.imagine(STAR)
    began = time.monotonic()
    while card.scene != "picture" and time.monotonic() - began < 120:
        frames.append((shot(card), 160))
    let_transitions_end()
    frames.append((shot(card), 2500))
    film("imagine", frames)
    page.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
    page.until("document.querySelector('.swiftai-nb').dataset.tone === 'dark'")
    for prompt in PROMPTS:
        card.imagine(prompt)
    card.wait_step(3)
    still(card, "widget-queue-dark")
    card.wait_pictures(2 + len(PROMPTS))
    card.wait_scene("picture")
    page.command("apputils:change-theme", {"theme": "JupyterLab Light"})
    page.until("document.querySelector('.swiftai-nb').dataset.tone === 'light'")
    card.root.get_by_role("button", name=f"{STAR}, seed 11").click()
    let_transitions_end()
    still(card, "widget-picture")
    card.button("Compare").click()
    card.root.get_by_role("button", name="a penguin in snow, seed 11").click()
    let_transitions_end()
    still(card, "widget-compare")
    card.button("Done").click()
    card.button("Edit this").click()
    card.wait_scene("start")
    paint(card)
    card.root.locator(".toast").wait_for(state="hidden")
    still(card, "widget-mask")
    card.button("Done").click()
    card.button("Remove: start picture").click()
    card.root.locator(".model-button").click()
    let_transitions_end()
    still(card, "widget-models")
    card.root.locator(".model-button").click()
    card.root.evaluate("e => { e.style.width = '480px'; }")
    page.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
    let_transitions_end()
    still(card, "widget-narrow-dark")


def several(page: NotebookPage) -> None:
    """A still of the cell whose tiles are the pictures of four seeds."""
    cell = page.page.locator(".jp-CodeCell").nth(1)
    cell.locator(".swiftai-pictures img").nth(3).wait_for()
    page.command("notebook:enter-command-mode")
    page.page.mouse.move(0, 0)
    let_transitions_end()
    data = cell.screenshot()
    picture = narrowed(Image.open(io.BytesIO(data)).convert("RGB"), STILL_WIDTH)
    write("count", picture, limit_bytes=LIMITS_BYTES["still"])


def let_transitions_end() -> None:
    time.sleep(1)  # sleep: the card's CSS transitions take 0.3 s


def shot(card: Card) -> Image.Image:
    """The card as it is."""
    return Image.open(io.BytesIO(card.root.locator(".card").screenshot())).convert("RGB")


def still(card: Card, name: str) -> None:
    """One picture, as good as its size allows."""
    picture = narrowed(shot(card), STILL_WIDTH)
    write(name, picture, limit_bytes=LIMITS_BYTES["still"])


def film(name: str, frames: list[tuple[Image.Image, int]]) -> None:
    """An animation; the card grows with its strip, so every frame has the height of the tallest."""
    pictures = [narrowed(picture, FILM_WIDTH) for picture, _ in frames]
    height = max(picture.height for picture in pictures)
    sheets = []
    for picture in pictures:
        sheet = Image.new("RGB", (picture.width, height), picture.getpixel((2, picture.height // 2)))
        sheet.paste(picture)
        sheets.append(sheet)
    durations = [duration for _, duration in frames]
    write(
        name,
        sheets[0],
        limit_bytes=LIMITS_BYTES["film"],
        save_all=True,
        append_images=sheets[1:],
        duration=durations,
        loop=0,
    )


def narrowed(picture: Image.Image, width: int) -> Image.Image:
    """Not wider than `width`."""
    if picture.width <= width:
        return picture
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def write(name: str, picture: Image.Image, *, limit_bytes: int, **options: object) -> None:
    """A WebP of the best quality that stays below the limit."""
    for quality in (88, 80, 70, 60, 50, 40):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=4, **options)
        if buffer.tell() <= limit_bytes:
            break
    (FOLDER / f"{name}.webp").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
