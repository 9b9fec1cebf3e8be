"""The form of the widget in real pages: what it refuses, what it says before it starts, and what it does only once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser.jupyter import OpenNotebook
from tests.browser.test_widget import SETUP, run_cell
from tests.browser.test_widget_editing import SETUP as BUNDLED
from tests.browser.test_widget_editing import open_card
from tests.browser.widget_page import Card

# Everything in the widget that changes its place without a user's doing, with where it was and where it went.
_WATCH_SHIFTS = """() => {
  window.shifts = [];
  new PerformanceObserver(seen => {
    for (const entry of seen.getEntries()) for (const { node, previousRect, currentRect } of entry.sources)
      if (node?.parentElement?.closest('.swiftai-nb'))
        window.shifts.push(`${node.className}: ${previousRect.y} to ${currentRect.y}`);
  }).observe({ type: 'layout-shift' });
}"""


@pytest.mark.parametrize("prompt", ["", "   "], ids=["empty", "blank"])
def test_an_empty_prompt_is_refused_at_the_prompt_and_the_examples_stay(
    open_notebook: OpenNotebook, prompt: str
) -> None:
    _, card = open_card(open_notebook)
    examples = card.root.locator(".stage .chip")
    shown = examples.all_inner_texts()
    assert len(shown) >= 3
    assert card.root.get_by_label("Prompt", exact=True).get_attribute("placeholder") not in shown
    card.write(prompt)
    card.button("Imagine").click()
    card.root.locator(".error-note", has_text="Enter a prompt first").wait_for()
    field = card.root.get_by_label("Prompt", exact=True)
    assert field.get_attribute("aria-invalid") == "true"
    assert examples.all_inner_texts() == shown
    assert all(one.is_visible() for one in examples.all())
    assert card.violations() == []
    examples.first.click()
    assert field.input_value() == shown[0], "an example mends it"
    card.root.locator(".error-note").wait_for(state="hidden")
    assert field.get_attribute("aria-invalid") is None


def test_a_failed_download_says_so_beside_its_button_which_tries_again(
    open_notebook: OpenNotebook, screenshots: Path, tmp_path: Path
) -> None:
    setup = f"""\
import os
for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"): os.environ.pop(name, None)
from tests.browser.widget_kernel import prepare, prepare_hub
from swiftai_nb import ImagineWidget
hub = prepare_hub({str(tmp_path)!r})
hub.faults.throttle_bps = None
hub.faults.status["/resolve/"] = [(500, {{}})] * 500
session = prepare()
widget = ImagineWidget()
widget"""
    notebook, card = open_card(open_notebook, "hub.faults.status.clear()", setup=setup)
    card.root.locator(".model-button").click()
    card.root.locator("button.choice", has_text="tiny").click()
    offer = card.root.locator(".offer")
    download = offer.get_by_role("button", name=re.compile("^Download"))
    download.click()
    failed = offer.locator(".failed")
    failed.wait_for()
    said = failed.inner_text()
    assert "try again" in said.lower()
    assert "command" not in said, "there is none in a widget"
    assert card.root.locator(".error-note").is_hidden(), "it is said once"
    assert card.scene != "error"
    button, text = download.bounding_box(), failed.bounding_box()
    assert button is not None
    assert text is not None
    assert 0 <= button["y"] - (text["y"] + text["height"]) < 40, "right above the button"
    card.screenshot(screenshots, "download-failed")
    assert card.violations() == []
    run_cell(notebook, 1)
    notebook.wait_idle()
    download.click()
    notebook.until("document.querySelector('.model-button .state').textContent === 'ready'")
    assert failed.is_hidden()


@pytest.mark.parametrize("app", ["lab", "notebook"])
@pytest.mark.parametrize("setup", [SETUP, BUNDLED], ids=["no memory known", "time and memory"])
def test_nothing_in_the_form_moves_when_the_first_estimate_arrives(
    open_notebook: OpenNotebook, app: str, setup: str
) -> None:
    notebook = open_notebook([setup], app=app)
    notebook.page.evaluate(_WATCH_SHIFTS)
    run_cell(notebook, 0)
    card = Card(notebook.page)
    estimate = card.root.locator(".estimate:not([data-outdated])")
    estimate.filter(has_text=re.compile("About|No estimate")).wait_for()
    notebook.wait_idle()
    # Shifts are reported after the frame in which they happen.
    frames = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    notebook.page.evaluate(frames)
    assert notebook.page.evaluate("window.shifts") == []


def test_a_long_job_is_estimated_and_asked_about_before_it_starts(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    _, card = open_card(open_notebook)
    card.imagine("a fox")
    card.wait_pictures(1)
    card.root.locator("details.more > summary").click()
    card.root.get_by_label("Steps", exact=True).fill("1000")
    card.root.get_by_label("Pictures", exact=True).fill("100")
    estimate = card.root.locator(".estimate:not([data-outdated])")
    estimate.filter(has_text=re.compile(r"About \d+ (min|h)")).wait_for()
    assert "on this machine's CPU" in estimate.inner_text()
    assert re.search(r"\d+ (MB|GB)", estimate.inner_text()), "and its memory"
    card.button("Imagine").click()
    question = card.root.locator(".question")
    question.wait_for()
    assert re.search(r"takes about \d+ (min|h)", question.inner_text())
    assert card.button("Start anyway").evaluate("e => e === e.getRootNode().activeElement")
    card.screenshot(screenshots, "long-job")
    assert card.violations() == []
    card.button("Not now").click()
    assert question.is_hidden()
    assert card.root.locator(".tile.live").count() == 0, "nothing has begun"
    card.button("Imagine").click()
    card.button("Start anyway").click()
    card.wait_step(3)
    assert "left" in card.root.locator(".caption .second").inner_text()
    assert card.cancel_latency_ms() < 100
    card.wait_scene("cancelled")


def test_a_double_click_on_imagine_asks_for_one_picture_and_never_cancels(
    open_notebook: OpenNotebook,
) -> None:
    _, card = open_card(open_notebook)
    for number in (1, 2):
        card.write("a fox in the snow")
        card.button("Imagine").dblclick()
        card.wait_pictures(number)
        card.wait_scene("picture")
        card.root.locator(".tile.live").wait_for(state="detached")
    assert card.root.locator(".tile").count() == 2
    assert card.page.evaluate("() => String(getSelection())") == "", "and selects no words"
