"""`%%imagine` in a real page: previews, Cancel, the stop button, what stays in the notebook."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.browser.jupyter import NotebookPage, OpenNotebook

SETUP = """\
%load_ext swiftai_nb
from swiftai_nb.notebook.session import get_session
from swiftai_nb.testing import FakeGenerator
get_session().add_generator("fake", FakeGenerator(step_duration_s=0.25))
%config Imagine.engine = "fake"
"""
STAGE = ".swiftai-cell__stage img:not(.entering)"
HOSTS = [("lab", "python3"), ("notebook", "python3"), ("lab", "ipykernel6"), ("notebook", "ipykernel6")]


def watch_previews(page: NotebookPage) -> None:
    """Keeps the source of every preview that is shown."""
    page.page.evaluate(
        "() => { window.previews = new Set(); setInterval(() => document.querySelectorAll("
        f"'{STAGE}').forEach(i => window.previews.add(i.src)), 20); }}"
    )


def step_of(page: NotebookPage) -> int:
    return int(page.page.locator(".swiftai-cell").first.get_attribute("data-step") or 0)


@pytest.mark.parametrize(("app", "kernel"), HOSTS)
def test_cancel_button_ends_a_running_cell_within_one_step(
    open_notebook: OpenNotebook, app: str, kernel: str
) -> None:
    cells = [SETUP, "%%imagine --steps 60\na red fox", "print('the next cell ran')"]
    page = open_notebook(cells, app=app, kernel=kernel)
    watch_previews(page)
    page.run_all()
    page.until("window.previews.size >= 3")
    step = step_of(page)
    page.page.locator(".swiftai-cell__cancel").click()
    clicked_at = time.monotonic()
    page.wait_idle()
    ended_s = time.monotonic() - clicked_at
    output = "\n".join(page.outputs(1))
    cancelled = re.search(r"Cancelled at step (\d+) of 60", output)
    assert cancelled is not None, output
    assert int(cancelled[1]) - step <= 3, f"clicked at {step}, ended at {cancelled[1]} ({ended_s:.2f} s)"
    assert output.count("\n") <= 1, output
    assert "Traceback" not in output
    assert page.outputs(2) == [], "Run All must stop"


@pytest.mark.parametrize(("app", "kernel"), [("lab", "python3"), ("notebook", "ipykernel6")])
def test_saved_notebook_shows_the_picture_without_a_kernel(
    open_notebook: OpenNotebook, app: str, kernel: str
) -> None:
    page = open_notebook([SETUP, "%%imagine --steps 6 --seed 7\na red fox"], app=app, kernel=kernel)
    watch_previews(page)
    page.run_all()
    page.until("window.previews.size >= 2")
    page.wait_idle()
    page.until("document.querySelectorAll('.jp-OutputArea-output img').length === 1")
    assert page.page.locator(".swiftai-cell").count() == 0
    saved = page.save()
    output, caption = saved.cells[1].outputs
    assert sorted(output.data) == ["image/png", "text/plain"]
    assert re.fullmatch(r"fake · 64x64 · 6 steps · seed 7 · \d+\.\d s", caption.data["text/plain"])
    assert output.data["text/plain"] == "1 picture: a red fox"
    assert "widgets" not in saved.metadata
    again = open_notebook(page.path, app=app, starts_kernel=False)
    again.until("document.querySelector('.jp-OutputArea-output img')?.naturalWidth === 64")
    width = again.page.locator(".jp-OutputArea-output img").first.evaluate("i => i.clientWidth")
    assert width == 192, "a small picture is shown larger, at most 3x"
    assert "6 steps · seed 7" in "\n".join(again.outputs(1))
    assert "Error" not in "\n".join(again.outputs(1))


@pytest.mark.parametrize("kernel", ["python3", "ipykernel6"])
def test_stop_button_keeps_what_is_made_and_stops_run_all(open_notebook: OpenNotebook, kernel: str) -> None:
    cells = [SETUP, "%%imagine --steps 3 --count 20 --out foxes\na red fox", "print('the next cell ran')"]
    page = open_notebook(cells, kernel=kernel)
    page.run_all()
    page.until("document.querySelector('.swiftai-cell__stagename')?.textContent.includes('picture 3')")
    page.interrupt()
    page.wait_idle()
    output = "\n".join(page.outputs(1))
    assert re.search(
        r"Cancelled( at step \d of 3)?\. (Kept \d+ of 20 pictures|No pictures were finished)\.", output
    ), output
    assert "Traceback" not in output
    assert page.outputs(2) == []
    page.command("notebook:insert-cell-below")
    saved = page.save()
    kinds = [sorted(o.get("data", {})) for o in saved.cells[1].outputs if o.output_type == "display_data"]
    assert kinds[0][-2:] == ["text/html", "text/plain"] or kinds[0] == ["image/png", "text/plain"]
    assert kinds[1:] == [["text/html", "text/plain"]], "the caption"


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_tiles_of_a_saved_notebook_open_large_without_a_kernel(
    open_notebook: OpenNotebook, app: str, screenshots: Path
) -> None:
    page = open_notebook([SETUP, "%%imagine --steps 2 --seed 7 --count 4 --size 128\na red fox"], app=app)
    page.run_all()
    page.wait_idle()
    page.until("document.querySelectorAll('.swiftai-pictures img').length === 4")
    output, caption = page.save().cells[1].outputs
    assert sorted(output.data) == ["image/png", "text/html", "text/plain"]
    assert caption.data["text/plain"].startswith("fake · 128x128 · 2 steps · seeds 7–10 · ")
    again = open_notebook(page.path, app=app, starts_kernel=False)
    again.until("document.querySelectorAll('.swiftai-pictures img').length === 4")
    tile = again.page.locator(".swiftai-pictures summary").nth(1)
    picture = tile.locator("img")
    assert picture.get_attribute("alt") == "a red fox, seed 8"
    assert picture.evaluate("i => i.clientWidth") == 192
    tile.click()
    assert picture.evaluate("i => i.clientWidth") == 256, "128 pixels, twice"
    assert again.page.get_by_text("fake · 128x128 · 2 steps · seed 8").is_visible()
    again.screenshot(screenshots / f"cell-tiles-{app}.png")
    tile.focus()
    again.page.keyboard.press("Enter")
    assert picture.evaluate("i => i.clientWidth") == 192


def test_restarted_kernel_stops_the_view_and_the_notebook_claims_no_picture(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    page = open_notebook([SETUP, "%%imagine --steps 600\na whale"])
    page.run_all()
    page.page.wait_for_selector(STAGE)
    page.restart_kernel()
    page.page.wait_for_selector(".swiftai-cell.is-disconnected")
    card = page.page.locator(".swiftai-cell")
    assert "Run the cell again" in card.inner_text()
    assert not card.locator(".swiftai-cell__cancel").is_visible()
    before = card.inner_text()
    page.page.wait_for_timeout(1500)  # sleep: a running clock would show another second
    assert card.inner_text() == before, "the clock has stopped"
    page.screenshot(screenshots / "cell-restarted.png")
    (output,) = page.save().cells[1].outputs
    assert output.data["text/plain"] == "1 picture: a whale (not finished)"


@pytest.mark.parametrize("way", ["restart", "shutdown"])
def test_background_job_of_a_kernel_that_the_server_ends_is_no_failure(
    open_notebook: OpenNotebook, way: str
) -> None:
    page = open_notebook(["%load_ext swiftai_nb", "job = %imagine --bg --steps 900 a whale"])
    page.run_all()
    page.until("Number(document.querySelector('.swiftai-cell')?.dataset.step) >= 3")
    kernel = page.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id")
    if way == "restart":
        page.server.request(f"/api/kernels/{kernel}/restart", method="POST")
    else:
        page.server.request(f"/api/kernels/{kernel}", method="DELETE")
    page.page.wait_for_selector(".swiftai-cell.is-disconnected")
    assert " left" not in page.page.locator(".swiftai-cell").inner_text(), "nothing is expected any more"
    assert page.save().cells[1].outputs[0].data["text/plain"] == "1 picture: a whale (not finished)"


def test_the_status_bar_says_busy_while_a_cell_draws(open_notebook: OpenNotebook) -> None:
    page = open_notebook([SETUP, "%%imagine --steps 300\na red fox"])
    page.run_all()
    page.page.wait_for_selector(STAGE)
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
    page.until("Number(document.querySelector('.swiftai-cell')?.dataset.step) >= 20")
    page.until(f"{kernel} === 'busy'")
    page.interrupt()
    page.wait_idle()


def test_a_question_is_a_prompt(open_notebook: OpenNotebook) -> None:
    page = open_notebook([SETUP, "%imagine is this a cat? --steps 2", "%imagine is this a cat?", "%imagine?"])
    page.run_all(wait=True)
    for cell in (1, 2):
        page.until(f"document.querySelectorAll('.jp-CodeCell')[{cell}].querySelectorAll('img').length === 1")
        assert page.save().cells[cell].outputs[0].data["text/plain"] == "1 picture: is this a cat?"
    assert "Make a picture from a prompt" in "\n".join(page.outputs(3)), "the magic's help is still there"


def test_background_job_shows_previews_while_another_cell_works(open_notebook: OpenNotebook) -> None:
    cells = [
        SETUP,
        "job = %imagine --bg --steps 12 a red fox",
        "import time\nend = time.time() + 6\nwhile time.time() < end: sum(range(1000))",
        "print(len(await job))",
    ]
    page = open_notebook(cells)
    watch_previews(page)
    page.run_all()
    page.until("window.previews.size >= 3", timeout_s=60)
    page.until("document.querySelectorAll('.jp-CodeCell')[1].querySelectorAll('img').length === 1")
    page.wait_idle()
    assert [text.strip() for text in page.outputs(3)] == ["1"]


DEAF = """\
from swiftai_nb.notebook.cell import cancel
cancel.SubshellRoute.route = lambda self, comm: False
cancel._main_stream = lambda kernel: None
"""


def test_page_interrupts_the_kernel_when_nothing_else_hears_the_click(open_notebook: OpenNotebook) -> None:
    page = open_notebook([SETUP + DEAF, "%%imagine --steps 200\na red fox", "print('the next cell ran')"])
    page.run_all()
    page.page.wait_for_selector(STAGE)
    page.page.locator(".swiftai-cell__cancel").click()
    page.wait_idle(timeout_s=30)
    assert re.search(r"Cancelled at step \d+ of 200", "\n".join(page.outputs(1)))
    assert page.outputs(2) == []


def test_grid_fills_in_and_ends_as_a_table_whose_tiles_open_large(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    page = open_notebook([SETUP, "%%imagine --grid steps=1,2,4 seed=1,2\na red fox"])
    watch_previews(page)
    page.run_all()
    page.until("window.previews.size >= 2")
    page.screenshot(screenshots / "grid-running.png")
    page.wait_idle()
    page.until("document.querySelectorAll('.swiftai-pictures td img').length === 6")
    page.screenshot(screenshots / "grid-done.png")
    output, caption = page.save().cells[1].outputs
    assert output.data["text/plain"] == "3 x 2 grid of steps and seed: a red fox"
    assert "image/png" in output.data, "the labeled sheet, for PDF"
    assert caption.data["text/plain"].startswith("fake · 64x64 · seeds 1–2 · ")
    again = open_notebook(page.path, starts_kernel=False)
    again.until("document.querySelectorAll('.swiftai-pictures td img').length === 6")
    assert again.page.locator(".swiftai-pictures th").all_inner_texts() == [
        "steps 1", "steps 2", "steps 4", "seed 1", "seed 2",
    ]  # fmt: skip
    tile = again.page.locator(".swiftai-pictures summary").nth(4)
    closed = tile.locator("img").evaluate("i => i.clientWidth")
    tile.focus()
    again.page.keyboard.press("Enter")
    assert again.page.get_by_text("fake · 64x64 · 2 steps · seed 2").is_visible()
    assert tile.locator("img").evaluate("i => i.clientWidth") == closed == 192, "64 pixels, three times"
    below = again.page.locator(".swiftai-pictures img")
    assert {below.nth(i).evaluate("i => i.clientWidth") for i in range(6)} == {192}, "no other tile has grown"
    again.screenshot(screenshots / "grid-open.png")


def test_bundled_model_draws_and_is_cancelled_within_a_step(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    cells = [
        "%load_ext swiftai_nb",
        "%%imagine --seed 7\na penguin in snow",
        "%%imagine --steps 1000\na sunflower",
    ]
    page = open_notebook(cells, app="notebook")
    watch_previews(page)
    page.run_all()
    page.until(
        "Number(document.querySelectorAll('.jp-CodeCell')[2]"
        ".querySelector('.swiftai-cell:has(img:not(.entering))')?.dataset.step) >= 5"
    )
    page.screenshot(screenshots / "bundled-running.png")
    step = step_of(page)  # before the click: the card is gone as soon as the cell has ended
    page.page.locator(".swiftai-cell__cancel").click()
    page.wait_idle()
    cancelled = re.search(r"Cancelled at step (\d+) of 1000", "\n".join(page.outputs(2)))
    assert cancelled is not None, page.outputs(2)
    assert int(cancelled[1]) - step < 100, "a thousand steps take minutes"
    page.screenshot(screenshots / "bundled-cancelled.png")


@pytest.mark.parametrize(("name", "options"), [
    ("light", {}), ("dark", {"dark": True}), ("narrow", {"width": 480, "height": 760}),
    ("many", {"height": 800}),
])  # fmt: skip
def test_running_cell_fits_the_page(
    open_notebook: OpenNotebook, screenshots: Path, name: str, options: dict[str, object]
) -> None:
    count = " --count 20" if name == "many" else ""
    cells = [
        SETUP,
        f"%%imagine --steps 30 --size 256x256{count}\na red fox in deep snow, early morning light",
    ]
    app = "notebook" if name == "narrow" else "lab"
    page = open_notebook(cells, app=app, **options)
    page.run_all()
    page.page.wait_for_selector(STAGE)
    page.until("Number(document.querySelector('.swiftai-cell').dataset.step) >= 8")
    page.screenshot(screenshots / f"cell-{name}.png")
    card = page.page.locator(".swiftai-cell")
    assert card.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "nothing may stick out"
    assert card.evaluate("e => e.getBoundingClientRect().right <= window.innerWidth")
    button = page.page.locator(".swiftai-cell__cancel")
    assert button.evaluate("e => e.getBoundingClientRect().height") >= 24
    if name != "narrow":
        height = card.evaluate("e => e.getBoundingClientRect().height")
        assert height < page.page.viewport_size["height"] - 130, (
            "with Cancel it fits below the notebook's bars"
        )
    page.interrupt()
    page.wait_idle()
