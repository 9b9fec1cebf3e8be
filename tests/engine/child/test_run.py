"""What a run reports: stages, steps, times, previews that are not too many, the step of a cancel."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.engine.child import run as run_module
from swiftai_nb.engine.child.run import GenerationRun, PreviewThrottle
from swiftai_nb.engine.messages import Generate, Stage, Step

PIXELS = np.zeros((40, 80, 3), np.uint8)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def events():
    return []


@pytest.fixture
def token():
    return CancellationToken()


@pytest.fixture
def run(clock, events, token):
    return GenerationRun(Generate("7", width=80, height=40), events.append, token)


def test_times_of_loading_and_denoising_are_measured(run, clock, events):
    clock[0] += 2
    run.model_loaded()
    run.enter_stage(GenerationStage.ENCODING_PROMPT)
    clock[0] += 1
    run.enter_stage(GenerationStage.DENOISING)
    for index in range(3):
        clock[0] += 5
        run.step_done(index, 3)
    run.enter_stage(GenerationStage.DECODING)
    clock[0] += 4
    done = run.done(PIXELS, scheduler="ddim", dtype="float32", peak_memory_bytes=9, notes=("a note",))
    assert (done.load_s, done.denoising_s, done.total_s, done.steps) == (2, 15, 22, 3)
    assert (done.job_id, done.width, done.height, len(done.pixels)) == ("7", 80, 40, 80 * 40 * 3)
    assert (done.notes, done.peak_memory_bytes) == (("a note",), 9)
    stages = [event.stage for event in events if isinstance(event, Stage)]
    assert stages == ["reading the prompt", "drawing", "finishing the picture"]
    assert [(e.index, e.total) for e in events if isinstance(e, Step)] == [(0, 3), (1, 3), (2, 3)]


def test_a_preview_is_a_small_jpeg_and_made_only_when_due(run, clock, events):
    made = []
    for index in range(10):
        clock[0] += 0.05
        run.step_done(index, 10, lambda: made.append(1) or PIXELS)
    previews = [event.preview for event in events]
    assert [preview is not None for preview in previews] == [i in (0, 3, 6, 9) for i in range(10)]
    assert len(made) == 4
    with Image.open(io.BytesIO(previews[0])) as image:
        assert (image.format, image.size) == ("JPEG", (256, 128))


def test_the_first_and_the_last_step_always_have_a_preview(clock):
    throttle = PreviewThrottle()
    assert [throttle.is_due(index, 4) for index in range(4)] == [True, False, False, True]


def test_a_cancel_names_the_step_it_reached(run, token):
    run.step_done(0, 20)
    token.cancel()
    with pytest.raises(GenerationCancelledError, match="Cancelled at step 2 of 20") as caught:
        run.step_done(1, 20)
    assert (caught.value.completed_steps, caught.value.total_steps) == (2, 20)


def test_a_cancel_before_the_first_step_names_none(run, token, events):
    token.cancel()
    with pytest.raises(GenerationCancelledError) as caught:
        run.enter_stage(GenerationStage.ENCODING_PROMPT)
    assert caught.value.message == "Cancelled"
    assert events == []
