"""The widget in real pages: made with, cancelled, queued, recalled, reloaded, seen twice, restarted."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.browser.jupyter import NotebookPage, OpenNotebook
from tests.browser.widget_page import Card
from tests.waiting import wait_until

SETUP = """\
from tests.browser.widget_kernel import prepare
session = prepare()
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
widget = ImagineWidget()
widget"""
BUSY = "import time\nend = time.time() + 600\nwhile time.time() < end and not session.queue.jobs[-1].state.is_final: sum(range(1000))"
ASK_FOR_BLUE = "print('heard:', widget.prompt == 'a blue fox')"
# So slow that nothing ends while the test looks at it, and quick again.
SLOW = "session.generator('mlx').step_duration_s = 5.0"
FAST = "session.generator('mlx').step_duration_s = 0.1"
CLOCK = """
session.cancelled_at = None
def note(job):
    job.token.on_cancel(lambda: setattr(session, "cancelled_at", time.time()))
import time
session.on_submit(note)
"""


def open_card(open_notebook: OpenNotebook, *more: str, **options: object) -> tuple[NotebookPage, Card]:
    notebook = open_notebook([SETUP, *more], **options)
    run_cell(notebook, 0)
    card = Card(notebook.page)
    notebook.wait_idle()
    return notebook, card


def run_cell(notebook: NotebookPage, index: int) -> None:
    """Runs that cell alone; a click in a widget has made its own cell the active one."""
    script = "i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i; }"
    notebook.page.evaluate(script, index)
    notebook.command("notebook:run-cell", wait=False)


def wait_output(notebook: NotebookPage, index: int, text: str) -> None:
    """Runs a cell that looks, again and again, until it has seen: a page sends what is typed a moment later."""
    output = notebook.page.locator(".jp-CodeCell").nth(index).locator(".jp-OutputArea-output").first

    def is_shown() -> bool:
        run_cell(notebook, index)
        notebook.wait_idle()
        return bool(output.count()) and text in output.inner_text()

    wait_until(is_shown, message=f"{text!r} in the output of cell {index}")


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_prompt_becomes_a_picture_with_a_preview_at_every_step(
    open_notebook: OpenNotebook, screenshots: Path, app: str
) -> None:
    notebook, card = open_card(open_notebook, app=app)
    card.screenshot(screenshots, f"{app}-empty")
    assert card.violations() == []
    card.watch()
    card.write("a fox in the snow")
    card.button("Imagine").click()
    card.wait_step(4)
    assert re.search(r"\d+ s · about \d+ s left", card.root.locator(".caption .second").inner_text())
    card.screenshot(screenshots, f"{app}-running")
    card.wait_scene("picture")
    said = card.said
    assert "Loading model · 2.1 of 6.9 GB" in said
    steps = [int(found[1]) for words in said if (found := re.search(r"step (\d+) of 8", words))]
    assert steps == sorted(steps)
    assert len(steps) >= 5
    card.wait_pictures(1)
    notebook.until("window.frames_seen.length >= 6")
    assert len(set(card.frames)) == len(card.frames), "every preview shows other bytes"
    card.screenshot(screenshots, f"{app}-picture")
    assert card.violations() == []
    # The copy for readers without a kernel is in the file, and not seen twice here.
    notebook.until(
        "document.querySelectorAll('.jp-OutputArea-output img[src^=\"data:image/png\"]').length === 1"
    )
    copy = notebook.page.locator('.jp-OutputArea-output img[src^="data:image/png"]')
    assert not copy.is_visible()
    saved = notebook.save()
    assert [sorted(output.data) for output in saved.cells[0].outputs] == [
        ["application/vnd.jupyter.widget-view+json", "text/plain"],
        ["image/png", "text/plain"],
    ]
    assert "widgets" not in saved.metadata
    if app == "lab":
        again = open_notebook(notebook.path, app=app, starts_kernel=False)
        again.until("document.querySelector('.jp-OutputArea-output img')?.naturalWidth === 64")


@pytest.mark.parametrize(("app", "kernel"), [("lab", "python3"), ("notebook", "python3")])
def test_cancel_answers_at_once_while_another_cell_is_busy(
    open_notebook: OpenNotebook, screenshots: Path, app: str, kernel: str
) -> None:
    after = "print((session.cancelled_at or 0), widget.jobs[0]['step'], len(widget.images))"
    notebook, card = open_card(open_notebook, CLOCK, BUSY, after, app=app, kernel=kernel)
    run_cell(notebook, 1)
    notebook.wait_idle()
    card.root.locator("details.more > summary").click()
    card.root.get_by_label("Steps", exact=True).fill("60")
    card.imagine("a red fox")
    card.wait_step(2)
    run_cell(notebook, 2)
    card.wait_step(5)
    step = int(card.root.locator(".caption").get_attribute("data-step") or 0)
    clicked_at = time.time()
    assert card.cancel_latency_ms() < 100
    card.wait_scene("cancelled")
    badge = card.root.locator(".badge").inner_text()
    found = re.fullmatch(r"Cancelled at (\d+) of 60", badge)
    assert found is not None, badge
    assert int(found[1]) <= step + 3, f"clicked at {step}"
    assert float(card.root.locator(".layers img").last.evaluate("i => getComputedStyle(i).opacity")) < 1
    card.screenshot(screenshots, f"{app}-cancelled")
    assert card.violations() == []
    notebook.wait_idle()
    run_cell(notebook, 3)
    notebook.wait_idle()
    cancelled_at, _, images = notebook.outputs(3)[0].split()
    assert float(cancelled_at) - clicked_at < 1.0, "the busy cell did not hold the click up"
    assert images == "0"


def test_queue_history_compare_seed_and_reuse(open_notebook: OpenNotebook, screenshots: Path) -> None:
    notebook, card = open_card(open_notebook, SLOW, FAST)
    run_cell(notebook, 1)
    notebook.wait_idle()
    for prompt in ("a cat", "a dog", "a bird"):
        card.imagine(prompt)  # at once, before the page shows the one before
    card.root.locator(".queue li").nth(2).wait_for(state="attached")
    assert card.root.locator(".queue .place").all_inner_texts() == ["now", "2", "3"]
    card.button("Cancel: a dog").click()
    card.screenshot(screenshots, "queue")
    assert card.violations() == []
    run_cell(notebook, 2)
    card.wait_pictures(2)
    card.wait_scene("picture")
    assert card.words == "a bird"
    card.root.get_by_role("button", name=re.compile("^a cat, seed")).click()
    assert card.words == "a cat"
    seed = re.search(r"seed (\d+)", card.root.locator(".caption .second").inner_text())
    assert seed is not None
    card.button("Compare").click()
    slider = card.root.get_by_role("slider")
    slider.focus()
    slider.press("ArrowLeft")
    assert card.root.locator(".compare").evaluate("e => e.style.getPropertyValue('--at')") == "49%"
    card.screenshot(screenshots, "compare")
    assert card.violations() == []
    slider.press("Escape")
    card.wait_scene("picture")
    card.write("")
    card.button("Reuse").click()
    card.root.locator("details.more > summary").click()
    assert card.root.get_by_label("Prompt", exact=True).input_value() == "a cat"
    assert card.root.get_by_label("Seed", exact=True).input_value() == seed[1]
    card.button("Imagine").click()
    card.wait_pictures(3)
    card.wait_scene("picture")
    assert f"seed {seed[1]}" in card.root.locator(".caption .second").inner_text(), "the seed is locked"
    card.button("Lock the seed").click()
    card.button("Remix").click()
    card.wait_pictures(4)
    card.wait_scene("picture")
    assert f"seed {seed[1]}" not in card.root.locator(".caption .second").inner_text()
    card.button("Save").click()
    card.root.locator(".toast", has_text="Saved as").wait_for()
    name = card.root.locator(".toast").inner_text().removeprefix("Saved as ")
    assert (notebook.server.root / name).read_bytes().startswith(b"\x89PNG")
    card.imagine("much too large")
    card.wait_scene("failed")
    assert "4.2 GB are free" in card.root.locator(".failure").inner_text()
    card.screenshot(screenshots, "failed")
    assert card.violations() == []


def test_reload_second_view_and_restart(open_notebook: OpenNotebook, screenshots: Path) -> None:
    notebook, card = open_card(open_notebook, "widget", ASK_FOR_BLUE)
    card.root.locator("details.more > summary").click()
    card.root.get_by_label("Steps", exact=True).fill("400")
    card.imagine("a red fox")
    card.wait_step(2)
    run_cell(notebook, 1)
    second = Card(notebook.page, index=1)
    second.wait_step(3)
    assert second.root.get_by_label("Prompt", exact=True).input_value() == "a red fox"
    second.root.get_by_label("Prompt", exact=True).fill("a blue fox")
    assert card.root.get_by_label("Prompt", exact=True).input_value() == "a blue fox"
    wait_output(notebook, 2, "heard: True")
    notebook.command("docmanager:save")
    notebook.page.reload()
    notebook.page.wait_for_selector(".jp-Notebook .jp-Cell")
    again = Card(notebook.page)
    again.wait_step(4)
    again.root.locator(".layers img").last.wait_for(timeout=120_000)
    assert again.root.get_by_label("Prompt", exact=True).input_value() == "a blue fox"
    again.button("Cancel").click()
    again.wait_scene("cancelled")
    again.screenshot(screenshots, "reloaded")
    notebook.until(
        "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    notebook.page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }"
    )
    again.root.locator(".notice").wait_for(timeout=120_000)
    assert "Run this cell again" in again.root.locator(".notice").inner_text()
    again.screenshot(screenshots, "restarted")
    assert again.violations() == []


def test_model_is_downloaded_in_the_picker(
    open_notebook: OpenNotebook, screenshots: Path, tmp_path: Path
) -> None:
    setup = f"""\
import os
for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"): os.environ.pop(name, None)
from tests.browser.widget_kernel import prepare, prepare_hub
hub = prepare_hub({str(tmp_path)!r})
{SETUP}"""
    notebook = open_notebook(
        [setup, "hub.faults.throttle_bps = None", "print(session.registry.is_downloaded('tiny'))"]
    )
    run_cell(notebook, 0)
    card = Card(notebook.page)
    notebook.wait_idle()
    state = card.root.locator(".model-button .state")
    assert state.inner_text() == "ready"
    card.root.locator(".model-button").click()
    card.screenshot(screenshots, "picker")
    assert card.violations() == []
    card.root.locator("button.choice", has_text="tiny").click()
    offer = card.root.locator(".offer")
    assert "free on disk" in offer.inner_text()
    card.write("a fox")
    card.button("Imagine").click()
    card.root.locator(".error-note").wait_for()
    card.root.get_by_role("button", name=re.compile("^Download")).click()
    notebook.until(
        r"/downloading [1-9]\d? %/.test(document.querySelector('.model-button .state').textContent)"
    )
    card.screenshot(screenshots, "download")
    assert card.violations() == []
    card.button("Cancel download").click()
    notebook.until("document.querySelector('.model-button .state').textContent.startsWith('download ')")
    run_cell(notebook, 1)
    notebook.wait_idle()
    card.root.get_by_role("button", name=re.compile("^Download")).click()
    notebook.until("document.querySelector('.model-button .state').textContent === 'ready'")
    run_cell(notebook, 2)
    notebook.wait_idle()
    assert [text.strip() for text in notebook.outputs(2)] == ["True"]


def test_dark_theme_narrow_column_and_reduced_motion(open_notebook: OpenNotebook, screenshots: Path) -> None:
    notebook, card = open_card(open_notebook, dark=True)
    assert card.root.get_attribute("data-tone") == "dark"
    card.root.locator("details.more > summary").click()
    card.imagine("a red fox")
    card.wait_step(4)
    card.screenshot(screenshots, "dark")
    assert card.violations() == []
    card.wait_scene("picture")
    card.root.evaluate("e => { e.style.width = '480px'; }")
    prompt, stage, panel = (card.root.locator(part).bounding_box() for part in (".ask", ".stage", ".form"))
    assert prompt is not None
    assert stage is not None
    assert panel is not None
    assert stage["y"] > prompt["y"] + prompt["height"], "the prompt comes first"
    assert panel["y"] > stage["y"] + stage["height"], "the panel goes under the stage"
    assert card.root.evaluate("e => e.scrollWidth <= 480")
    card.screenshot(screenshots, "dark-480")
    assert card.violations() == []
    notebook.command("apputils:change-theme", {"theme": "JupyterLab Light"})
    notebook.until("document.querySelector('.swiftai-nb').dataset.tone === 'light'")
    card.screenshot(screenshots, "light-480")
    assert card.violations() == []
    notebook.page.emulate_media(reduced_motion="reduce")
    assert card.root.locator(".fill").first.evaluate("e => getComputedStyle(e).transitionDuration") == "0s"
    notebook.page.emulate_media(media="print")
    assert not card.root.locator(".panel").is_visible()
    assert card.root.locator(".stage img").first.is_visible()
