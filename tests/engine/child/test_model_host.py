"""Our own engine's host with a small real pipeline: what it keeps, what it drops, what it reports."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import GenerationCancelledError, GenerationFailedError, ModelNotFoundError
from swiftai_nb.engine.child.start import make_model_host
from swiftai_nb.engine.messages import Generate, LoadModel, ModelFiles, Quantize, Stage, Step
from tests.conftest import IS_GPU_SIMULATED
from tests.diffusion.flux2_folders import write_klein
from tests.diffusion.sd_folders import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "small", "sd15")


@pytest.fixture
def host():
    return make_model_host(own_process=False)


def draw(host, folder, *, report=lambda _event: None, token=None, **fields):
    values = {
        "prompt": "cat",
        "width": 64,
        "height": 64,
        "steps": 2,
        "guidance_scale": 3.0,
        "seed": 1,
        **fields,
    }
    command = Generate("1", ModelFiles(str(folder)), **values)
    return host.generate(command, report, CancellationToken() if token is None else token)


def test_the_host_describes_itself(host):
    ready = host.ready()
    assert ready.device in ("cpu", "metal", "cuda")
    assert {"swiftai_nb", "mlx", "numpy"} <= set(ready.versions)


def test_a_model_is_loaded_once_and_dropped_on_request(host, folder):
    events = []
    first = draw(host, folder, report=events.append)
    second = draw(host, folder, report=events.append)
    assert first.pixels == second.pixels
    loads = [event for event in events if isinstance(event, Stage) and event.stage == "loading model"]
    assert [event.detail for event in loads] == ["small"]
    status = host.status()
    assert status.folder == str(folder)
    assert sum(status.components.values()) > 0
    host.unload()
    assert host.status().folder == ""


def test_a_staged_picture_is_the_same_and_keeps_nothing_loaded(host, folder):
    whole = draw(host, folder)
    staged = draw(host, folder, is_staged=True)
    assert staged.pixels == whole.pixels
    assert set(host.status().components.values()) == {0}


def test_loading_reads_all_weights(host, folder):
    loaded = host.load(LoadModel("1", ModelFiles(str(folder))), lambda _event: None, CancellationToken())
    assert min(loaded.components.values()) > 0


def test_a_cancel_during_the_steps_stops_the_run_and_the_next_picture_is_whole(host, folder):
    expected, token = draw(host, folder).pixels, CancellationToken()

    def cancel_at_first_step(event):
        if isinstance(event, Step):
            token.cancel()

    with pytest.raises(GenerationCancelledError) as caught:
        draw(host, folder, report=cancel_at_first_step, token=token, steps=50, scheduler="ddim")
    assert (caught.value.completed_steps, caught.value.total_steps) == (1, 50)
    assert draw(host, folder).pixels == expected


def test_numpy_has_one_thread_during_a_picture_in_a_thread_engine_too(host, folder):
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    threads = getattr(library, "scipy_openblas_get_num_threads64_", None)
    if threads is None:
        pytest.skip("NumPy without the OpenBLAS of its wheel")
    counts = []
    draw(host, folder, report=lambda event: counts.append(threads()) if isinstance(event, Step) else None)
    assert set(counts) == {1}


def test_a_model_that_is_not_there_is_named(host, tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        draw(host, tmp_path / "nowhere")


def test_a_quantized_model_is_saved_as_a_folder_of_its_own(host, folder, tmp_path):
    events, target = [], tmp_path / "copies" / "small-q8"
    host.quantize(Quantize("1", str(folder), str(target), 8), events.append, CancellationToken())
    assert "unet" in [event.detail for event in events]
    assert draw(host, target).pixels == draw_quantized(host, folder)
    assert [path.name for path in target.parent.iterdir()] == ["small-q8"]


def draw_quantized(host, folder):
    command = Generate("1", ModelFiles(str(folder), quantization_bits=8), "cat", None, 64, 64, 2, 3.0, 1)
    return host.generate(command, lambda _event: None, CancellationToken()).pixels


def test_a_target_that_cannot_be_written_is_one_error(host, folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    command = Quantize("1", str(folder), str(Path(tmp_path, "file", "copy")), 8)
    with pytest.raises(GenerationFailedError, match="quantizing failed"):
        host.quantize(command, lambda _event: None, CancellationToken())


def test_quantizing_can_be_cancelled_between_networks(host, folder, tmp_path):
    token = CancellationToken()
    with pytest.raises(GenerationCancelledError):
        host.quantize(
            Quantize("1", str(folder), str(tmp_path / "copy"), 8), lambda _event: token.cancel(), token
        )
    assert list(tmp_path.iterdir()) == []


def test_the_fitted_preview_needs_no_decoder_while_a_staged_model_denoises(host, tmp_path):
    held = []

    def report(event):
        if isinstance(event, Step):
            held.append({name: size > 0 for name, size in host.status().components.items()})
            assert event.preview

    done = draw(host, write_klein(tmp_path), report=report, guidance_scale=0.0, is_staged=True)
    assert held == [{"text_encoder": False, "transformer": True, "vae": False}] * 2
    assert done.dtype == ("bfloat16" if IS_GPU_SIMULATED else "float32")
