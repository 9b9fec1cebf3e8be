from __future__ import annotations

import asyncio
import base64
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import traitlets

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, InsufficientMemoryError, InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.testing import FakeGenerator
from tests.waiting import wait_until

PATIENCE_S = 30.0
FORM: dict[str, Any] = {
    "prompt": "a fox",
    "negative_prompt": "",
    "model": "",
    "engine": "local",
    "width": None,
    "height": None,
    "steps": None,
    "guidance_scale": None,
    "seed": None,
    "count": 1,
}


class Page:
    """The other end of the wire: what was sent to it, and its requests."""

    def __init__(self, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> None:
        self.widget = widget
        self.reports: list[tuple[dict[str, Any], list[bytes]]] = []
        monkeypatch.setattr(widget, "send", lambda c, buffers=None: self.reports.append((c, buffers or [])))

    def request(self, kind: str, **content: Any) -> None:
        self.widget._handle_custom_msg({"kind": kind, **content}, [])

    def generate(
        self, request_id: str = "request", *, picture_id: str | None = None, **settings: Any
    ) -> None:
        start = {} if picture_id is None else {"picture_id": picture_id}
        self.request("generate", request_id=request_id, settings={**FORM, **settings}, **start)

    def of(self, kind: str) -> list[tuple[dict[str, Any], list[bytes]]]:
        return [report for report in self.reports if report[0]["kind"] == kind]


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator(step_duration_s=0.02)


@pytest.fixture
def page(widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(widget, monkeypatch)


def states(widget: ImagineWidget) -> list[str]:
    return [job["state"] for job in widget.jobs]


def ended(widget: ImagineWidget) -> bool:
    return states(widget) != [] and set(states(widget)) <= {"done", "failed", "cancelled"}


def test_generate_is_awaited_for_its_pictures(widget: ImagineWidget) -> None:
    async def run() -> tuple[GeneratedImage, ...]:
        return await widget.generate(prompt="a fox", steps=3, seed=7, count=2)

    pictures = asyncio.run(run())
    assert [p.seed for p in pictures] == [7, 8]
    assert widget.images == pictures
    assert (widget.prompt, widget.steps) == ("a fox", 3)
    wait_until(lambda: states(widget) == ["done"])
    assert [p["seed"] for p in widget.pictures] == [7, 8]


def test_generate_refuses_unknown_settings_and_bad_values(widget: ImagineWidget) -> None:
    with pytest.raises(InvalidInputError, match="no setting named 'stepps'"):
        widget.generate(stepps=3)
    with pytest.raises(InvalidInputError, match="prompt is empty"):
        widget.generate(prompt=" ")
    with pytest.raises(InvalidInputError, match="steps must be"):
        widget.generate(prompt="a fox", steps=0)
    with pytest.raises(InvalidInputError, match="count must be"):
        widget.generate(prompt="a fox", steps=1, count=0)
    assert widget.jobs == []


def test_page_request_carries_the_form_and_its_id_comes_back(widget: ImagineWidget, page: Page) -> None:
    page.generate("r1", prompt="a cat", width=32, height=48, steps=2, seed=5)
    assert widget.jobs[0]["request_id"] == "r1", "known at once, before the first step"
    wait_until(lambda: len(widget.images) == 1)
    recipe = widget.images[0].recipe
    assert recipe is not None
    assert (recipe.prompt, recipe.width, recipe.height, recipe.steps, recipe.seed) == ("a cat", 32, 48, 2, 5)


def test_bad_request_is_answered_with_an_error(widget: ImagineWidget, page: Page) -> None:
    page.generate("r2", steps=5000)
    page.generate("r3", model="no-such-model")
    (first, _), (second, _) = page.of("error")
    assert first["request_id"] == "r2"
    assert "5000" in first["message"]
    assert second["request_id"] == "r3"
    assert second["hint"]
    assert widget.jobs == []


@pytest.mark.parametrize(
    ("kind", "name"), [("generate", "settings"), ("plan", "settings"), ("cancel_download", "model")]
)
@pytest.mark.parametrize("value", [{}, {"settings": None, "model": None}])
def test_a_page_that_is_not_ours_is_told_what_its_message_lacks(
    page: Page, kind: str, name: str, value: dict[str, None]
) -> None:
    page.request(kind, request_id="r3", **value)
    ((report, _),) = page.of("error")
    assert report["message"] == f"the page's message has no {name}"
    assert report["request_id"] == "r3"


def test_unexpected_fault_is_told_to_the_page(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(page.widget._handlers, "generate", lambda content: {}["settings"])
    page.request("generate", request_id="r3")
    ((report, _),) = page.of("error")
    assert "KeyError" in report["message"]
    page.request("nobody knows this")
    assert len(page.reports) == 1


def test_previews_are_binary_messages_and_never_state(widget: ImagineWidget, page: Page) -> None:
    page.generate(steps=30)
    wait_until(lambda: ended(widget))
    previews = page.of("preview")
    assert 2 <= len(previews) <= 20, "a few a second"
    for report, buffers in previews:
        assert report["media_type"] == "image/jpeg"
        assert buffers[0][:2] == b"\xff\xd8"
        assert "data" not in report
    state = {k: v for k, v in widget.get_state().items() if k not in ("_esm", "_css")}
    assert len(str(state)) < 20_000


def test_colab_gets_previews_as_base64(
    widget: ImagineWidget, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    page.generate(steps=1)
    wait_until(lambda: ended(widget) and page.of("preview") != [])
    report, buffers = page.of("preview")[0]
    assert buffers == []
    assert base64.b64decode(report["data"])[:2] == b"\xff\xd8"


def test_cancel_keeps_preview_and_says_where(session: Session, widget: ImagineWidget, page: Page) -> None:
    page.generate(steps=1000)
    wait_until(lambda: any(job["step"] >= 2 for job in widget.jobs))
    page.request("cancel", job_id=widget.jobs[0]["id"], request_id="")
    wait_until(lambda: states(widget) == ["cancelled"])
    assert 2 <= widget.jobs[0]["step"] < 1000
    page.reports.clear()
    page.request("init")
    assert [report["kind"] for report, _ in page.reports] == ["ready", "preview"]


def test_cancel_is_told_before_the_step_ends(session: Session, widget: ImagineWidget, page: Page) -> None:
    session.add_generator("mlx", FakeGenerator(step_duration_s=0.5))
    page.generate(steps=4)
    wait_until(lambda: states(widget) == ["running"])
    page.request("cancel", job_id=widget.jobs[0]["id"], request_id="")
    assert widget.jobs[0]["cancelling"] or states(widget) == ["cancelled"]


def test_cancel_by_request_id_for_a_page_that_does_not_know_the_job(
    widget: ImagineWidget, page: Page
) -> None:
    page.generate("r1", steps=1000)
    page.request("cancel", job_id="", request_id="r1")
    wait_until(lambda: "running" not in states(widget) and "queued" not in states(widget))
    assert widget.images == ()


def test_cancel_of_an_ended_or_unknown_job_does_nothing(widget: ImagineWidget, page: Page) -> None:
    page.request("cancel", job_id="nobody", request_id="")
    page.generate(steps=1)
    wait_until(lambda: ended(widget))
    page.request("cancel", job_id=widget.jobs[0]["id"], request_id="")
    assert states(widget) == ["done"]


def test_queue_of_three_shows_places_and_loses_only_the_middle_one(widget: ImagineWidget, page: Page) -> None:
    for number in range(3):
        page.generate(f"r{number}", prompt=f"picture {number}", steps=20)
    assert [job["prompt"] for job in widget.jobs] == ["picture 0", "picture 1", "picture 2"]
    page.request("cancel", job_id=widget.jobs[1]["id"], request_id="")
    wait_until(lambda: [job["prompt"] for job in widget.jobs][-2:] == ["picture 0", "picture 2"])
    wait_until(lambda: len(widget.images) == 2)
    assert [image.prompt for image in widget.images] == ["picture 0", "picture 2"]
    wait_until(lambda: states(widget) == ["done"])


def test_failure_reaches_the_page_as_message_and_hint(
    session: Session, widget: ImagineWidget, page: Page
) -> None:
    error = InsufficientMemoryError("needs 9 GB", hint="choose a smaller model")
    session.add_generator("mlx", FakeGenerator(fail_at_step=2, error=error))
    page.generate()
    wait_until(lambda: states(widget) == ["failed"])
    assert (widget.jobs[0]["message"], widget.jobs[0]["hint"]) == ("needs 9 GB", "choose a smaller model")


def test_picture_made_elsewhere_in_the_session_shows_here(session: Session, widget: ImagineWidget) -> None:
    config = ImageGenerationConfig(steps=2, seed=11)
    session.submit(GenerationRequest.of("by the magic", config, engine="local")).result(PATIENCE_S)
    wait_until(lambda: [p["prompt"] for p in widget.pictures] == ["by the magic"])
    assert widget.images == (), "images are this widget's own"


def test_second_widget_shows_what_the_first_one_runs(session: Session, widget: ImagineWidget) -> None:
    job = widget.generate(prompt="a fox", steps=50)
    second = ImagineWidget(session=session)
    wait_until(lambda: [j["id"] for j in second.jobs] == [job.id])
    job.cancel()
    wait_until(lambda: states(second) == ["cancelled"] or second.jobs == [])
    second.close()


def test_pictures_are_served_in_both_sizes(widget: ImagineWidget, page: Page) -> None:
    page.generate(steps=1)
    wait_until(lambda: widget.pictures != [])
    picture_id = widget.pictures[0]["id"]
    for size, magic in (("full", b"\x89PNG"), ("thumbnail", b"\xff\xd8")):
        page.request("picture", picture_id=picture_id, size=size)
        report, buffers = page.of("picture")[-1]
        assert (report["picture_id"], report["size"]) == (picture_id, size)
        assert buffers[0].startswith(magic)
    page.request("picture", picture_id="999", size="full")
    assert page.of("error")


def test_save_never_overwrites(widget: ImagineWidget, page: Page, tmp_path: Path) -> None:
    page.generate(prompt="A fox, in the Snow!", steps=1, seed=7)
    wait_until(lambda: widget.pictures != [])
    for _ in range(2):
        page.request("save", picture_id=widget.pictures[0]["id"])
    paths = [report["path"] for report, _ in page.of("saved")]
    assert paths == ["a-fox-in-the-snow-7.png", "a-fox-in-the-snow-7-2.png"]
    recipe = GeneratedImage.open(tmp_path / paths[1]).recipe
    assert recipe is not None
    assert recipe.seed == 7


def test_settings_can_be_observed_and_linked(widget: ImagineWidget) -> None:
    class Slider(traitlets.HasTraits):
        value = traitlets.Int(3)

    seen: list[Any] = []
    widget.observe(lambda change: seen.append(change["new"]), "steps")
    slider = Slider()
    widget.steps = 9
    link = widget.link("steps", slider)
    assert slider.value == 9
    slider.value = 12
    assert widget.steps == 12
    link.unlink()
    slider.value = 1
    assert widget.steps == 12
    assert seen == [9, 12]


def test_images_can_be_observed(widget: ImagineWidget) -> None:
    counts: list[int] = []
    widget.observe(lambda change: counts.append(len(change["new"])), "images")
    widget.generate(prompt="a fox", steps=1, count=3).result(PATIENCE_S)
    wait_until(lambda: counts == [1, 2, 3])


def test_constructor_fills_the_form(session: Session) -> None:
    widget = ImagineWidget("a fox", steps=4, seed=0, session=session)
    assert (widget.prompt, widget.steps, widget.seed) == ("a fox", 4, 0)
    widget.close()


def test_closed_widget_lets_its_jobs_go_on(session: Session) -> None:
    widget = ImagineWidget("a fox", session=session)
    job = widget.generate(steps=10)
    widget.close()
    assert len(job.result(PATIENCE_S)) == 1


def test_cancel_method_ends_this_widgets_jobs_alone(session: Session, widget: ImagineWidget) -> None:
    mine = widget.generate(prompt="mine", steps=1000)
    other = session.submit(GenerationRequest.of("other", ImageGenerationConfig(steps=2), engine="local"))
    widget.cancel()
    assert len(other.result(PATIENCE_S)) == 1
    assert mine.state == "cancelled"


def test_traits_survive_the_page_and_jobs_writing_at_once(widget: ImagineWidget) -> None:
    faults: list[BaseException] = []
    stop = threading.Event()

    def as_the_page() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                widget.set_state({"prompt": f"a fox {number}", "steps": 1 + number % 5})
            except BaseException as error:  # noqa: BLE001
                faults.append(error)

    thread = threading.Thread(target=as_the_page)
    thread.start()
    try:
        jobs = [widget.generate(prompt="a fox", steps=1) for _ in range(40)]
        for job in jobs:
            job.result(PATIENCE_S)
        wait_until(lambda: len(widget.images) == 40)
        wait_until(lambda: len(widget.pictures) == 40)
    finally:
        stop.set()
        thread.join()
    assert faults == []


def test_hundreds_of_pictures_do_not_swell_the_state(widget: ImagineWidget, page: Page) -> None:
    widget.generate(prompt="a fox", steps=1, width=16, height=16, count=100).result(PATIENCE_S)
    wait_until(lambda: len(widget.images) == 100)
    wait_until(lambda: widget.pictures[-1]["seed"] == widget.images[-1].seed)
    assert len(widget.pictures) == 60
    assert widget.picture_count == 100
    page.request("load_more")
    assert len(widget.pictures) == 100


def test_error_type_stays_the_callers(widget: ImagineWidget) -> None:
    with pytest.raises(AIError):
        widget.generate(prompt="a fox", model="no-such-model")


def test_plan_answers_with_the_estimate_or_with_what_is_wrong(page: Page) -> None:
    page.request("plan", request_id="1", settings={**FORM, "prompt": "", "width": 64, "height": 64})
    page.request("plan", request_id="2", settings={**FORM, "width": 7})
    (good, _), (bad, _) = page.of("plan")
    assert (good["request_id"], good["width"], good["asks"]) == ("1", 64, False)
    assert (bad["request_id"], bad["field"], bad["fixes"]) == ("2", "width", [16])


def test_a_long_picture_on_the_cpu_waits_for_a_yes(
    session: Session, widget: ImagineWidget, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = session.plan
    monkeypatch.setattr(session, "plan", lambda asked: replace(plan(asked), device="cpu", estimated_s=90.0))
    page.generate("first")
    assert (page.of("plan")[0][0]["request_id"], page.of("plan")[0][0]["asks"]) == ("first", True)
    assert widget.jobs == []
    page.request("generate", request_id="second", settings=FORM, confirmed=True)
    assert [job["request_id"] for job in widget.jobs] == ["second"]


def test_a_cancelled_batch_is_resumed_with_the_pictures_it_lacks(widget: ImagineWidget, page: Page) -> None:
    job = widget.generate(prompt="a fox", steps=8, seed=7, count=3)
    wait_until(lambda: len(job.images) == 1)
    job.cancel()
    wait_until(lambda: states(widget) == ["cancelled"])
    assert widget.jobs[0]["picture_ids"] == [widget.pictures[0]["id"]]
    page.request("retry", job_id=job.id)
    wait_until(lambda: len(widget.images) == 3)
    assert [image.seed for image in widget.images] == [7, 8, 9]
    page.request("retry", job_id=job.id)
    page.request("retry", job_id="gone")
    assert [report["message"] for report, _ in page.of("error")] == ["this job cannot be resumed"] * 2


def test_a_picture_is_enlarged_by_lanczos_where_no_upscaler_is_installed(
    widget: ImagineWidget, page: Page
) -> None:
    widget.generate(prompt="a fox", steps=1).result(PATIENCE_S)
    wait_until(lambda: len(widget.pictures) == 1)
    page.request("upscale", picture_id=widget.pictures[0]["id"])
    wait_until(lambda: len(widget.pictures) == 2)
    ((report, _),) = page.of("upscaled")
    assert report["picture_id"] == widget.pictures[1]["id"]
    assert "Lanczos" in report["note"]
    small, large = widget.pictures
    assert (large["width"], large["height"]) == (2 * small["width"], 2 * small["height"])


def test_a_variation_starts_from_its_picture_and_is_its_child(
    session: Session, widget: ImagineWidget, page: Page
) -> None:
    widget.generate(prompt="a fox", steps=1).result(PATIENCE_S)
    wait_until(lambda: len(widget.pictures) == 1)
    page.request(
        "generate", request_id="v", settings={**FORM, "strength": 0.4}, picture_id=widget.pictures[0]["id"]
    )
    config = session.queue.jobs[-1].request.config
    assert config.image is not None
    assert config.strength == 0.4
    assert widget.image is None, "the form keeps its own start picture"
    widget.image = widget.images[0]
    page.generate("remix", picture_id="")
    assert session.queue.jobs[-1].request.config.image is None, "a remix does not take the form's picture"
    assert list(session.picture_origins.values()) == [widget.pictures[0]["id"]]


def test_favorites_and_deletion_reach_the_history(
    session: Session, widget: ImagineWidget, page: Page
) -> None:
    widget.generate(prompt="a fox", steps=1, count=2).result(PATIENCE_S)
    wait_until(lambda: len(widget.pictures) == 2)
    first, second = (picture["id"] for picture in widget.pictures)
    page.request("favorite", picture_id=first, favorite=True)
    assert [picture["favorite"] for picture in widget.pictures] == [True, False]
    page.request("favorite", picture_id=first, favorite=False)
    page.request("delete_picture", picture_id=second)
    assert [(picture["id"], picture["favorite"]) for picture in widget.pictures] == [(first, False)]
    assert (widget.picture_count, len(widget.images)) == (1, 2)
    page.request("delete_picture", picture_id=second)
    assert "no picture" in page.of("error")[0][0]["message"]


def test_presets_are_saved_for_every_later_widget(
    session: Session, widget: ImagineWidget, page: Page
) -> None:
    page.request("save_preset", name="ink", settings={**FORM, "style": "ink", "steps": 4})
    assert widget.choices["presets"]["ink"]["steps"] == 4
    other = ImagineWidget(session=session)
    assert other.choices == widget.choices
    other.close()
    page.request("delete_preset", name="ink")
    assert widget.choices["presets"] == {}


def test_damaged_messages_are_errors_and_the_widget_lives(widget: ImagineWidget, page: Page) -> None:
    for kind in ("generate", "plan", "picture", "save", "favorite", "set_input", "save_preset", "download"):
        page.request(kind)
    page.request("generate", request_id="x", settings={"prompt": 7, "loras": 3, "count": "many"})
    page.request("no such kind")
    assert len(page.reports) >= 8
    page.generate(steps=1)
    wait_until(lambda: len(widget.images) == 1)


def test_a_kernel_that_is_shut_down_reports_no_failed_job(
    session: Session, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = widget.generate(prompt="a fox", steps=200)
    wait_until(lambda: states(widget) == ["running"])
    monkeypatch.setattr("swiftai_nb.notebook.widget.page_reports.is_kernel_ending", lambda: True)
    session.generator("mlx").error = AIError("the engine ended with status 0")
    job.set_error(AIError("the engine ended with status 0"))
    assert states(widget) == ["running"], "the page sees the restart itself"
