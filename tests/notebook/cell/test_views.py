"""The output of a running cell, from its first display to what it leaves in the notebook."""

from __future__ import annotations

from typing import Any

import pytest

from swiftai_nb.core.errors import EngineDiedError, GenerationCancelledError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook.cell.views import HtmlView, create_view
from swiftai_nb.notebook.cell.wait import BackgroundJob, final_bundle
from swiftai_nb.notebook.cell.widget_view import WidgetView
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.progress import Throttle, WorkProgress
from tests.waiting import wait_until

PREVIEW = b"\xff\xd8 a JPEG"


class Display:
    """Records what `IPython.display.display` shows, and the updates of it."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def __call__(self, data: dict[str, Any], **_: Any) -> Display:
        self.outputs.append(data)
        return self

    def update(self, data: dict[str, Any], **_: Any) -> None:
        self.outputs.append(data)

    @property
    def text(self) -> str:
        return str(self.outputs[-1]["text/plain"])


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Display:
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    return display


class Messages(list[tuple[dict[str, Any], list[bytes]]]):
    """What a widget sends to its page."""

    @classmethod
    def of(cls, view: WidgetView, monkeypatch: pytest.MonkeyPatch) -> Messages:
        messages = cls()
        monkeypatch.setattr(view._widget, "send", lambda c, buffers=None: messages.append((c, buffers or [])))
        return messages


def widget_view(cancels: list[str] | None = None, **options: Any) -> WidgetView:
    on_cancel = (lambda: None) if cancels is None else (lambda: cancels.append("cancel"))
    return WidgetView(
        job_id="1", prompt="a fox", size=(64, 64), blocking=True, on_cancel=on_cancel, **options
    )


@pytest.mark.parametrize("kind", ["widget", "html"])
def test_text_says_not_finished_until_the_result_replaces_it(display: Display, kind: str) -> None:
    view = create_view(None, kind=kind, job_id="1", prompt="a fox", size=(64, 64), on_cancel=lambda: None)
    view.start("1 picture: a fox")
    assert display.outputs[0] == {"text/plain": "1 picture: a fox"}, "what nbval compares"
    assert display.text == "1 picture: a fox (not finished)"
    view.finish(({"text/plain": "1 picture: a fox", "image/png": "abc"}, {}))
    assert display.outputs[-1] == {"text/plain": "1 picture: a fox", "image/png": "abc"}


@pytest.mark.parametrize("kind", ["widget", "html"])
def test_work_without_pictures_leaves_no_text(display: Display, kind: str) -> None:
    view = create_view(None, kind=kind, job_id="1", prompt="a fox", size=(64, 64), on_cancel=lambda: None)
    view.start("1 picture: a fox")
    view.finish(None)
    assert display.outputs[-1] == {"text/html": "", "text/plain": ""}


def test_html_view_escapes_the_prompt_and_waits_before_its_first_card(display: Display) -> None:
    view = HtmlView(prompt='"<b>', size=(64, 32))
    view.start("1 picture")
    view.paint(WorkProgress(stage="drawing", step=1, steps=4, preview=PREVIEW))
    assert len(display.outputs) == 2, "a quick job shows no card"
    wait_until(lambda: len(display.outputs) == 3)
    card = display.outputs[-1]["text/html"]
    assert "&quot;&lt;b&gt;" in card
    assert "<b>" not in card
    assert 'value="0.250"' in card
    view.finish(None)


def test_widget_sends_each_preview_once_and_keeps_it_out_of_its_state(
    display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = widget_view()
    messages = Messages.of(view, monkeypatch)
    view.start("1 picture: a fox")
    view.paint(WorkProgress(stage="drawing", step=1, steps=4, preview=PREVIEW))
    view.paint(WorkProgress(stage="drawing", step=2, steps=4, preview=PREVIEW))
    wait_until(lambda: view._widget.status.get("step") == 2)
    assert messages == [
        ({"kind": "preview", "job_id": "1", "step": 1, "media_type": "image/jpeg"}, [PREVIEW])
    ]
    assert view._widget.status["fraction"] == 0.5
    view.finish(None)


def test_a_page_that_opens_later_gets_an_answer_and_the_last_preview(
    display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = widget_view()
    messages = Messages.of(view, monkeypatch)
    view.start("1 picture: a fox")
    view.handle({"kind": "init", "job_id": "1"})
    assert messages == [({"kind": "ready"}, [])]
    view.paint(WorkProgress(stage="drawing", step=3, steps=4, preview=PREVIEW))
    view.handle({"kind": "init", "job_id": "1"})
    assert [content["kind"] for content, _ in messages] == ["ready", "preview", "ready", "preview"]
    assert messages[-1][0]["step"] == 3
    view.finish(None)
    view.handle({"kind": "init", "job_id": "1"})
    assert len(messages) == 4, "an ended view does not answer"


def test_only_a_cancel_of_this_job_counts(display: Display) -> None:
    cancels: list[str] = []
    view = widget_view(cancels)
    view.handle({"kind": "cancel", "job_id": "another"})
    view.handle({"kind": "cancel"})
    view.handle({"kind": "nonsense", "job_id": "1"})
    assert cancels == []
    view.handle({"kind": "cancel", "job_id": "1"})
    assert cancels == ["cancel"]
    view.finish(None)


def test_a_requested_cancel_is_shown_at_once(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    view = widget_view()
    view.start("1 picture: a fox")
    view.paint(WorkProgress(stage="drawing", step=1, steps=4))
    view.paint(WorkProgress(stage="drawing", step=1, steps=4, is_cancelling=True))
    assert view._widget.status["cancelling"] is True
    view.finish(None)


def test_progress_reads_as_one_line() -> None:
    progress = WorkProgress(
        stage="drawing", step=4, steps=20, image_index=1, count=3, elapsed_s=3.2, remaining_s=492
    )
    assert str(progress) == "drawing, picture 2 of 3, step 4 of 20, 3.2 s, about 8 min 12 s left"
    assert progress.fraction == pytest.approx(0.4)
    assert str(WorkProgress(stage="drawing", is_cancelling=True)) == "cancelling after this step"


def test_throttle_calls_at_once_then_at_its_rate_and_never_drops_the_last() -> None:
    calls: list[int] = []
    requests: list[int] = []
    throttle = Throttle(lambda: calls.append(len(requests)), interval_s=0.5)
    for number in range(5):
        requests.append(number)
        throttle()
    assert calls == [1]
    wait_until(lambda: calls[-1:] == [5])
    throttle.close()
    throttle(now=True)
    assert len(calls) == 2


class FakeWork:
    """A work that ends when it is told to."""

    def __init__(self, *, pictures: Pictures, error: Any = None, preview: bytes | None = None) -> None:
        self.is_final, self.error, self.last_preview = False, error, preview
        self._pictures = pictures
        self._callback: Any = None
        self.cancels = 0

    def progress(self) -> WorkProgress:
        return WorkProgress(stage="drawing")

    def pictures(self) -> Pictures:
        return self._pictures

    def cancel(self) -> None:
        self.cancels += 1

    def subscribe(self, callback: Any) -> Any:
        self._callback = callback
        return lambda: None

    def end(self) -> None:
        self.is_final = True
        self._callback()


def picture() -> GeneratedImage:
    from PIL import Image

    return GeneratedImage.from_pil(Image.new("RGB", (16, 16), "red"))


def test_final_output_is_the_pictures_else_an_unfinished_preview_else_nothing() -> None:
    made = Pictures([picture()], prompt="a fox", wanted=2)
    bundle = final_bundle(FakeWork(pictures=made, error=GenerationCancelledError()))
    assert bundle is not None
    assert bundle[0]["text/plain"] == "1 picture: a fox"
    none = Pictures([], prompt="a fox", wanted=1)
    assert final_bundle(FakeWork(pictures=none, error=GenerationCancelledError())) is None
    jpeg = _jpeg()
    unfinished = final_bundle(FakeWork(pictures=none, error=GenerationCancelledError(), preview=jpeg))
    assert unfinished is not None
    assert unfinished[0]["text/plain"] == "Unfinished picture: a fox"
    assert final_bundle(FakeWork(pictures=none, error=ValueError(), preview=jpeg)) is None


def _jpeg() -> bytes:
    from swiftai_nb.core.format import encode_jpeg

    return encode_jpeg(picture().pil)


def test_background_job_is_a_task_that_ends_with_its_output(display: Display) -> None:
    work = FakeWork(pictures=Pictures([picture()], prompt="a fox"))
    view = widget_view()
    view.start("1 picture: a fox")
    job = BackgroundJob(work, view, at_end=lambda pictures: final_bundle(work))
    assert (job.state, job.is_done) == ("running", False)
    job.cancel()
    assert work.cancels == 1
    work.end()
    work.end()
    assert (job.state, len(job.result(timeout_s=0))) == ("done", 1)
    assert display.text == "1 picture: a fox"


def test_background_job_of_an_ending_kernel_stays_unfinished(
    display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = FakeWork(pictures=Pictures([], prompt="a fox", wanted=1), error=EngineDiedError("status 0"))
    view = widget_view()
    view.start("1 picture: a fox")
    job = BackgroundJob(work, view, at_end=lambda pictures: final_bundle(work))
    monkeypatch.setattr("swiftai_nb.notebook.cell.wait.is_kernel_ending", lambda: True)
    work.end()
    assert job.state == "failed"
    assert display.text == "1 picture: a fox (not finished)", "the engine went with its kernel"


def test_background_failure_is_shown_escaped_and_raised_by_result(display: Display) -> None:
    error = GenerationCancelledError("<cancelled>")
    work = FakeWork(pictures=Pictures([], prompt="a fox", wanted=1), error=error)
    view = widget_view()
    view.start("1 picture: a fox")
    job = BackgroundJob(work, view, at_end=lambda pictures: final_bundle(work))
    work.end()
    assert job.state == "cancelled"
    assert "&lt;cancelled&gt;" in display.outputs[-1]["text/html"]
    with pytest.raises(GenerationCancelledError):
        job.result(timeout_s=0)
