"""The widget with the bundled model in real pages: pictures in, masks, versions, keys, layout, and a monkey."""

from __future__ import annotations

import base64
import contextlib
import io
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Error

from tests.browser.jupyter import NotebookPage, OpenNotebook
from tests.browser.states import SIZES, Stage, paint, visit
from tests.browser.test_widget import run_cell, wait_output
from tests.browser.widget_page import Card

SETUP = "from swiftai_nb import ImagineWidget\nwidget = ImagineWidget(seed=11)\nwidget"
_TRANSFER = """const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], 'picture', {type}));"""
_DROP = f"""(element, [data, type]) => {{ {_TRANSFER}
  for (const name of ['dragenter', 'dragover', 'drop'])
    element.dispatchEvent(new DragEvent(name, {{dataTransfer: transfer, bubbles: true, cancelable: true}}));
}}"""
_PASTE = f"""(element, [data, type]) => {{ {_TRANSFER}
  element.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: transfer, bubbles: true, cancelable: true}}));
}}"""


def open_card(
    open_notebook: OpenNotebook, *more: str, setup: str = SETUP, **options: object
) -> tuple[NotebookPage, Card]:
    notebook = open_notebook([setup, *more], **options)
    run_cell(notebook, 0)
    card = Card(notebook.page)
    notebook.wait_idle()
    return notebook, card


def photo(size: tuple[int, int] = (160, 128), file_format: str = "PNG") -> str:
    across = np.linspace(0, 255, size[0], dtype=np.uint8)
    pixels = np.stack([np.tile(across, (size[1], 1))] * 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return base64.b64encode(buffer.getvalue()).decode()


def test_dropped_picture_is_painted_over_and_only_there_changed(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    look = (
        "mask = None if widget.mask is None else widget.mask.pil.convert('L')\n"
        "print('mask:', mask and (mask.getpixel((5, 5)), mask.getpixel((80, 51)), mask.size))"
    )
    compare = (
        "import numpy as np\nbefore, after = (np.asarray(one.pil.resize((160, 128))).astype(int)"
        " for one in (widget.image, widget.images[-1]))\n"
        "far = np.abs(before - after)\nprint('kept:', far[-20:, :20].max() < 40, 'changed:', far[46:56, 70:90].max() > 60)"
    )
    notebook, card = open_card(open_notebook, look, compare)
    card.root.locator(".stage").evaluate(_DROP, ["bm90ZXM=", "text/plain"])
    card.root.locator(".error-note").wait_for()
    assert "not a picture" in card.root.locator(".error-note").inner_text()
    card.root.locator(".stage").evaluate(_DROP, [photo(), "image/png"])
    card.wait_scene("start")
    notebook.until("document.querySelector('.stage .layers img')?.naturalWidth === 160")
    paint(card)
    wait_output(notebook, 1, "mask: (0, 255, (160, 128))")
    card.screenshot(screenshots, "mask")
    assert card.violations() == []
    card.button("Invert").click()
    wait_output(notebook, 1, "mask: (255, 0, (160, 128))")
    card.button("Undo").click()
    wait_output(notebook, 1, "mask: (0, 255, (160, 128))")
    card.button("Undo").click()
    wait_output(notebook, 1, "mask: None")
    paint(card)
    card.imagine("a red rose")  # at once: what was painted last is not lost
    card.wait_pictures(1)
    card.wait_scene("picture")
    assert "changed by 0.8" in card.root.locator(".caption .second").inner_text()
    run_cell(notebook, 2)
    notebook.wait_idle()
    assert notebook.outputs(2)[0].strip() == "kept: True changed: True"


def test_edits_are_versions_with_before_and_after(open_notebook: OpenNotebook, screenshots: Path) -> None:
    _, card = open_card(open_notebook)
    card.imagine("a fox")
    card.wait_pictures(1)
    card.wait_scene("picture")
    card.button("Edit this").click()
    card.wait_scene("start")
    card.imagine("a blue fox")
    card.wait_pictures(2)
    card.wait_scene("picture")
    assert card.root.locator(".chain .thumb").count() == 2
    card.button("Before / after").click()
    card.wait_scene("compare")
    sides = card.root.locator(".compare .side").all_inner_texts()
    assert sides[0].startswith("a blue fox")
    assert sides[1].startswith("a fox")
    card.screenshot(screenshots, "before-after")
    assert card.violations() == []
    card.root.get_by_role("button", name="Version 1: a fox").click()
    card.button("Done").click()
    card.button("Variations").click()
    card.wait_scene("tiles")
    card.wait_pictures(6)
    assert card.root.locator(".stage-tile[data-state=done]").count() == 4
    card.root.locator(".stage-tile").nth(2).click()
    assert card.words == "a blue fox"
    card.button("All 4").click()
    card.wait_scene("tiles")


def test_reload_in_mid_job_keeps_tray_mask_and_job(open_notebook: OpenNotebook) -> None:
    notebook, card = open_card(open_notebook, "print('mask kept:', widget.mask is not None)")
    card.root.locator(".ask textarea").evaluate(_PASTE, [photo(file_format="JPEG"), "image/jpeg"])
    card.wait_scene("start")
    notebook.until("document.querySelector('.stage .layers img')?.naturalWidth === 160")
    paint(card)
    wait_output(notebook, 1, "mask kept: True")
    card.root.locator("details.more > summary").click()
    card.root.get_by_label("Steps", exact=True).fill("600")
    card.imagine("a red fox")
    card.confirm()
    card.wait_step(2)
    notebook.command("docmanager:save")
    notebook.page.reload()
    notebook.page.wait_for_selector(".jp-Notebook .jp-Cell")
    again = Card(notebook.page)
    again.wait_step(4)
    again.root.locator(".inputs li").wait_for()
    again.button("Edit the mask").click()
    again.wait_scene("start")
    painted = (
        "(() => { const c = document.querySelector('canvas.mask');"
        " return c.width === 160 && c.getContext('2d').getImageData(80, 51, 1, 1).data[3] > 200"
        " && c.getContext('2d').getImageData(5, 5, 1, 1).data[3] === 0; })()"
    )
    notebook.until(painted)
    again.root.locator(".tile.live").click()
    again.button("Cancel").click()
    again.wait_scene("cancelled")
    again.button("Try again").click()
    again.wait_step(1)
    again.button("Cancel").click()
    again.wait_scene("cancelled")


def test_keyboard_alone_from_the_empty_card_to_a_saved_picture(open_notebook: OpenNotebook) -> None:
    """Keys only: nothing is clicked or given the focus by the test once the cell has run."""
    notebook = open_notebook(
        [
            SETUP,
            "print(len(list(__import__('pathlib').Path().glob('a-sunflower-at-night-11*.png'))), 'saved')",
        ]
    )
    keys = notebook.page.keyboard
    run_cell(notebook, 0)
    card = Card(notebook.page)
    notebook.wait_idle()
    notebook.page.evaluate("document.activeElement?.blur()")
    card.root.evaluate("e => e.scrollIntoView()")

    def walk(name: str, *, key: str = "Tab", most: int = 150) -> None:
        """Presses `key` until what has the focus is called `name`."""
        for _ in range(most):
            if name in (seen := focused()):  # one of its names, as a whole
                return
            keys.press(key)
        raise AssertionError(f"{key} does not reach {name!r}; it ends at {seen!r}")

    def focused() -> list[str]:
        names: list[str] = notebook.page.evaluate(
            """() => { const e = document.activeElement;
              if (!e?.closest('.swiftai-nb')) return [];
              const names = [e.getAttribute('aria-label'), e.closest('label')?.innerText, e.innerText];
              return names.map(text => (text ?? '').trim().split('\\n')[0]); }"""
        )
        return names

    walk("a sunflower")
    keys.press("Enter")  # an example becomes the prompt
    walk("Prompt")
    keys.press("End")
    keys.type(" at night")
    walk("Model")
    keys.press("Enter")
    walk("Emoji mini")
    keys.press("ArrowDown")
    keys.press("ArrowUp")
    keys.press("Escape")  # closes the list, and the focus is on its button again
    walk("Model", most=1)
    walk("More")
    keys.press("Enter")
    walk("Steps")
    keys.type("4")
    walk("Imagine", key="Shift+Tab")
    keys.press("Enter")
    card.wait_pictures(1)
    card.wait_scene("picture")
    assert "4 steps" in card.root.locator(".caption .second").inner_text()
    walk("Save")
    keys.press("Enter")
    card.root.locator(".toast", has_text="Saved as").wait_for()
    walk("a sunflower at night, seed 11")  # the strip
    keys.press("f")
    card.button("a sunflower at night, seed 11, favorite").wait_for()
    run_cell(notebook, 1)
    wait_output(notebook, 1, "1 saved")


def test_keyboard_alone_from_empty_to_a_masked_and_saved_picture(open_notebook: OpenNotebook) -> None:
    notebook, card = open_card(
        open_notebook, "print('mask:', widget.mask and widget.mask.pil.getextrema()[0])"
    )
    keys = notebook.page.keyboard

    def tab_to(name: str) -> None:
        script = """() => { const e = document.activeElement;
          return [e?.getAttribute('aria-label'), e?.closest('label')?.innerText, e?.innerText].join(' | '); }"""
        for _ in range(120):
            if name in notebook.page.evaluate(script):
                return
            keys.press("Tab")
        raise AssertionError(f"Tab does not reach {name}")

    card.root.locator(".chip").first.focus()
    tab_to("Prompt")
    keys.type("a sunflower")
    keys.press("Control+Enter")
    card.wait_pictures(1)
    card.wait_scene("picture")
    card.root.locator(".tile").first.focus()
    tab_to_start = card.root.get_by_role("button", name="Edit this")
    tab_to_start.focus()
    keys.press("Enter")
    card.wait_scene("start")
    card.root.locator("canvas.mask").focus()
    keys.press("ArrowLeft")
    keys.press(" ")
    for _ in range(4):
        keys.press("ArrowRight")
    keys.press(" ")
    wait_output(notebook, 1, "mask: (0, 255)")
    card.root.locator("canvas.mask").focus()
    keys.press("i")
    keys.press("u")
    keys.press("u")
    wait_output(notebook, 1, "mask: None")
    card.root.locator("canvas.mask").focus()
    keys.press("Escape")
    card.wait_scene("picture")
    card.root.locator(".tile").first.focus()
    keys.press("f")
    card.root.get_by_role("button", name=re.compile("sunflower.*favorite")).wait_for()
    card.button("Save").focus()
    keys.press("Enter")
    card.root.locator(".toast", has_text="Saved as").wait_for()
    card.button("Show large").focus()
    keys.press("Enter")
    card.root.locator("dialog[open]").wait_for()
    keys.press("Escape")
    card.root.locator("dialog[open]").wait_for(state="detached")
    card.root.locator(".tile").first.focus()
    keys.press("Delete")
    card.root.locator(".toast", has_text="Press Delete again").wait_for()
    keys.press("Delete")
    card.wait_pictures(0)


@pytest.mark.parametrize("look", [*SIZES, "contrast"])
def test_no_state_has_a_finding_of_axe(open_notebook: OpenNotebook, look: str) -> None:
    width, height, is_dark = SIZES["dark" if look == "contrast" else look]
    emulated = {"forced_colors": "active"} if look == "contrast" else {}
    notebook, card = open_card(open_notebook, width=width, height=height, dark=is_dark, **emulated)
    notebook.command("application:toggle-left-area")
    findings = {state: found for state in visit(Stage(notebook, card)) if (found := card.violations())}
    assert findings == {}


def test_card_is_never_taller_than_what_is_visible_of_the_notebook(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    notebook, card = open_card(open_notebook, app="notebook")
    card.imagine("a fox in the snow")
    card.wait_pictures(1)
    card.wait_scene("picture")
    card.root.locator("details.more > summary").click()
    for width, height in [(1280, 900), (1280, 600), (640, 450), (420, 860), (360, 640)]:
        notebook.page.set_viewport_size({"width": width, "height": height})
        notebook.until(
            f"innerWidth === {width} && (box => box.height <= {height} && box.width <= {width})"
            "(document.querySelector('.swiftai-nb .card').getBoundingClientRect())"
        )
        card.screenshot(screenshots, f"size-{width}x{height}")
        scroll_width, client_width, stage_height = card.root.locator(".card").evaluate(
            """card => [card.scrollWidth, card.clientWidth,
              card.querySelector('.stage').getBoundingClientRect().height]"""
        )
        assert scroll_width <= client_width, f"something is cut off at the side of {width} pixels"
        assert stage_height >= 100, f"no stage is left in {width} x {height} pixels"


REFUSED = [
    ("Steps", "5000", "Steps must be between 1 and 1000 (got 5000)", "1000"),
    ("Guidance", "-3", "Guidance scale must be between 0 and 100 (got -3)", "0"),
    ("Seed", "-1", "Seed must be between 0 and 9007199254740991 (got -1)", "0"),
    ("Pictures", "0", "Count must be between 1 and 100 (got 0)", "1"),
    ("Width", "100", "Width 100 is not a multiple of 32, which this model needs", "96"),
]


def test_a_refused_number_draws_nothing_keeps_the_picture_and_is_mended_by_a_click(
    open_notebook: OpenNotebook,
) -> None:
    _, card = open_card(open_notebook)
    card.imagine("a fox")
    card.wait_pictures(1)
    card.wait_scene("picture")
    card.root.locator("details.more > summary").click()
    card.button("Custom").click()
    for label, typed, message, mended in REFUSED:
        field = card.root.get_by_label(label, exact=True)
        field.fill(typed)
        card.button("Imagine").click()
        card.root.locator(".error-note", has_text=message).wait_for()
        assert field.get_attribute("aria-invalid") == "true"
        assert field.input_value() == typed, "what is typed stays"
        assert card.scene == "picture", "and so does the picture"
        card.button(f"Use {mended}").click()
        assert field.input_value() == mended
        card.root.locator(".error-note").wait_for(state="hidden")
        assert field.get_attribute("aria-invalid") is None
    assert card.root.locator(".tile").count() == 1


def test_a_number_that_was_refused_before_imagine_is_mended_by_a_click(open_notebook: OpenNotebook) -> None:
    """The plan tells it, half a second after it was typed, and forgets it with its cause."""
    _, card = open_card(open_notebook)
    card.root.locator("details.more > summary").click()
    card.button("Custom").click()
    for label, typed, message, mended in REFUSED:
        card.root.get_by_label(label, exact=True).fill(typed)
        card.root.locator(".error-note", has_text=message).wait_for()
        card.button(f"Use {mended}").click()
        card.root.locator(".error-note").wait_for(state="hidden")


def test_touch_targets_are_large_enough(open_notebook: OpenNotebook) -> None:
    _, card = open_card(open_notebook, width=420, height=860, app="notebook")
    small = card.root.evaluate(
        """root => [...root.querySelectorAll('button, select, summary')].filter(e => e.checkVisibility())
          .map(e => [e.innerText || e.ariaLabel, e.getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)"""
    )
    assert small == [], "WCAG 2.2 asks for 24 pixels, for a mouse too"


def test_a_finger_finds_everything_and_the_mask_has_the_whole_picture(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    notebook, card = open_card(open_notebook, width=360, height=740, app="notebook", has_touch=True)
    notebook.until("matchMedia('(pointer: coarse)').matches")
    card.root.locator(".chip").first.tap()
    card.button("Imagine Ctrl ↵").or_(card.button("Imagine")).tap()
    card.wait_pictures(1)
    card.wait_scene("picture")
    card.button("Edit this").tap()
    card.wait_scene("start")
    card.root.locator("canvas.mask").scroll_into_view_if_needed()
    small, overlap, wide = card.root.evaluate(
        """root => { const box = selector => root.querySelector(selector).getBoundingClientRect();
          const small = [...root.querySelectorAll('button, select, summary')].filter(e => e.checkVisibility())
            .filter(e => e.getBoundingClientRect().height < 44 && !e.closest('.tray'))
            .map(e => e.innerText || e.ariaLabel);
          return [small, box('.stage').bottom - box('.mask-tools').top, root.scrollWidth - root.clientWidth]; }"""
    )
    assert small == []
    assert overlap <= 0, "no part of the picture is under the tools"
    assert wide == 0
    notebook.screenshot(screenshots / "mask-touch.png")
    card.root.locator("canvas.mask").tap()
    card.button("Undo").tap()
    card.button("Done").tap()
    card.wait_scene("picture")


def test_high_contrast_shows_what_is_chosen_and_what_has_the_focus(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    _, card = open_card(open_notebook, dark=True, forced_colors="active")
    card.imagine("a fox")
    card.wait_pictures(1)
    card.wait_scene("picture")
    card.root.locator("details.more > summary").click()
    outline = "e => getComputedStyle(e).outlineStyle"
    assert card.root.locator(".tile[aria-current]").evaluate(outline) == "solid"
    assert card.button("Auto").evaluate(outline) == "solid"
    assert card.button("1:1").evaluate(outline) == "none"
    card.root.get_by_label("Prompt", exact=True).focus()
    assert card.root.get_by_label("Prompt", exact=True).evaluate(outline) == "solid"
    card.screenshot(screenshots, "high-contrast")


def test_right_to_left_prompts_stand_right(open_notebook: OpenNotebook) -> None:
    _, card = open_card(open_notebook)
    card.write("ثعلب في الثلج")
    area = card.root.get_by_label("Prompt", exact=True)
    assert area.evaluate("e => getComputedStyle(e).direction") == "rtl"
    card.write("a fox")
    assert area.evaluate("e => getComputedStyle(e).direction") == "ltr"


_CLICK = """([root, pick]) => {
  const all = [...root.querySelectorAll('button, summary, select, input, textarea, canvas')].filter(
    e => e.checkVisibility() && !e.matches('[type=file], .add-input, .delete'));
  const open = all.filter(e => e.closest('dialog[open]'));
  const element = (open.length ? open : all)[Math.floor(pick * (open.length || all.length))];
  element.focus();
  element.click();
  return element.getAttribute('aria-label') ?? element.innerText ?? element.tagName;
}"""
KEYS = (
    "ArrowLeft",
    "ArrowRight",
    "ArrowUp",
    "ArrowDown",
    "Escape",
    "Enter",
    " ",
    "Delete",
    "f",
    "e",
    "7",
    "Tab",
)


def test_two_hundred_random_clicks_and_keys_leave_it_alive(open_notebook: OpenNotebook) -> None:
    notebook, card = open_card(open_notebook)
    errors: list[str] = []
    notebook.page.on("pageerror", lambda error: errors.append(str(error)))
    notebook.page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    dice = random.Random(20261129)
    card.imagine("a fox")
    done: list[str] = []
    root = card.root.element_handle()
    for _ in range(100):
        done.append(notebook.page.evaluate(_CLICK, [root, dice.random()]))
        key = dice.choice(KEYS)
        if notebook.page.evaluate("document.activeElement?.closest('.swiftai-nb') != null"):
            notebook.page.keyboard.press(key)
        done.append(key)
    assert errors == [], done
    for _ in range(3):
        notebook.page.keyboard.press("Escape")
    # Nothing is stuck: what runs can be cancelled, and the next picture is made.
    for _ in range(30):
        if not card.button("Cancel").is_visible():
            break
        with contextlib.suppress(Error):  # the picture may be finished before the click
            card.button("Cancel").click(timeout=2_000)
    card.button("Cancel").wait_for(state="hidden")
    run_cell(notebook, 0)
    fresh = Card(notebook.page)
    notebook.wait_idle()
    fresh.imagine("a sunflower")
    fresh.root.get_by_role("button", name=re.compile("^a sunflower, seed")).first.wait_for()
    assert errors == [], done


def test_kernel_restarted_in_mid_job_is_no_failure_of_the_engine(open_notebook: OpenNotebook) -> None:
    notebook, card = open_card(open_notebook)
    card.root.locator("details.more > summary").click()
    card.root.get_by_label("Steps", exact=True).fill("900")
    card.imagine("a whale")
    card.confirm()
    card.wait_step(2)
    kernel = notebook.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id")
    notebook.server.request(f"/api/kernels/{kernel}/restart", method="POST")
    card.root.locator(".notice").wait_for()
    assert "busy or restarted" in card.root.locator(".notice").inner_text()
    assert not card.root.locator(".failure").is_visible()
    assert not card.root.locator(".error-note").is_visible()
    assert re.fullmatch(r"Last update: Drawing · step \d+ of 900", card.words)
    assert card.root.locator(".caption .second").inner_text() == "a whale", "no time is left"
    assert not card.root.locator(".caption .bar").is_visible()
    assert not card.button("Cancel").is_visible()
    assert card.root.locator(".primary").get_attribute("aria-disabled") == "true"
