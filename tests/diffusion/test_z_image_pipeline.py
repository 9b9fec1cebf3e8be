"""Z-Image's pipeline: settings, notes and refusals, and what is computed how often."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.models.z_image import ZImageConfig, make_layout
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.engine.kernel.memory_plan import plan_memory
from swiftai_nb.model_files.folder import open_model
from tests.diffusion.parity import tiny_z_image
from tests.diffusion.z_image_folders import write_comfy, write_diffusers
from tests.model_files.files import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_diffusers(tmp_path_factory.mktemp("z_image"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder, dtype="float32")


class TestDefaults:
    def test_turbo(self, pipeline):
        defaults = pipeline.defaults
        assert (defaults.steps, defaults.guidance_scale) == (8, 0.0)
        assert (defaults.width, defaults.height, defaults.scheduler) == (1024, 1024, "flow-match-euler")
        assert pipeline.size_multiple == 16

    def test_the_base_model_is_known_by_its_shift(self, tmp_path):
        folder = write_diffusers(tmp_path, weights={})
        scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0}
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        model = open_model(folder)
        assert (model.defaults.steps, model.defaults.guidance_scale) == (28, 4.0)
        assert not model.is_turbo


class TestPrompts:
    def test_what_is_cut_is_noted(self, pipeline):
        conditioning = pipeline.encode_prompt(tiny_z_image.LONG)
        (note,) = conditioning.notes
        assert note.startswith("prompt truncated at ")
        assert "left out: " in note
        assert conditioning.prompt_lengths == (512,)

    def test_a_prompt_whose_template_alone_is_cut_has_no_note(self, pipeline):
        length = pipeline.encode_prompt("a cat").prompt_lengths[0]
        assert not pipeline.encode_prompt("a cat", max_sequence_length=length - 2).notes

    def test_a_negative_prompt_without_guidance_is_noted(self, pipeline):
        (note,) = pipeline.encode_prompt("a cat", "a dog").notes
        assert "guidance_scale above 0" in note

    @pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
    def test_any_guidance_above_0_is_on(self, pipeline, scale):
        conditioning = pipeline.encode_prompt("a cat", "a dog", guidance_scale=scale)
        assert conditioning.negative_prompt_embeds is not None
        assert not conditioning.notes

    @pytest.mark.parametrize(
        "options", [{"max_sequence_length": 513}, {"max_sequence_length": 0}, {"clip_skip": 1}]
    )
    def test_what_does_not_fit_is_refused(self, pipeline, options):
        with pytest.raises(InvalidInputError):
            pipeline.encode_prompt("a cat", **options)


@pytest.mark.parametrize("options", [{"scheduler": "euler"}, {"width": 72, "height": 64}, {"steps": 0}])
def test_settings_that_do_not_fit_are_refused_before_any_work(pipeline, options):
    conditioning = pipeline.encode_prompt("a cat")
    with pytest.raises(InvalidInputError):
        pipeline.denoise(conditioning, **({"width": 64, "height": 64, "steps": 1} | options))


def test_captions_are_refined_once_for_all_steps(pipeline, monkeypatch):
    network, calls = pipeline.networks["transformer"].network, []
    refine = type(network).refine_captions
    monkeypatch.setattr(type(network), "refine_captions", lambda *args: calls.append(1) or refine(*args))
    list(pipeline.denoise(pipeline.encode_prompt("a cat"), width=32, height=32, steps=3))
    assert calls == [1]


@pytest.mark.skipif(shutil.which("c++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_the_fused_operations_of_gpus_give_the_same_image(pipeline, monkeypatch):
    conditioning = pipeline.encode_prompt("a cat", guidance_scale=2.0)
    options = {"width": 32, "height": 48, "steps": 2, "seed": 3}
    plain = list(pipeline.denoise(conditioning, **options))[-1].latents
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    result = list(pipeline.denoise(conditioning, **options))[-1].latents
    np.testing.assert_allclose(result, plain, atol=1e-4)


def test_the_seed_alone_decides(pipeline):
    conditioning = pipeline.encode_prompt("a cat")
    runs = [list(pipeline.denoise(conditioning, width=32, height=48, steps=2, seed=s))[-1] for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].latents, runs[1].latents)
    assert not np.array_equal(runs[0].latents, runs[2].latents)


def test_previews_are_those_of_flux(pipeline):
    assert pipeline.preview(np.zeros((1, 4, 6, 16), np.float32)).shape == (1, 4, 6, 3)


def test_bfloat16_stays_near_float32(folder):
    results = []
    for dtype in ("float32", "float16"):
        pipeline = load_pipeline(folder, dtype=dtype)
        conditioning = pipeline.encode_prompt("a cat")
        results.append(list(pipeline.denoise(conditioning, width=32, height=32, steps=2))[-1].latents)
    assert pipeline.networks["transformer"].dtype == mx.bfloat16
    assert np.abs(results[1] - results[0]).max() < 0.1 * np.abs(results[0]).max()


class TestLayout:
    config = ZImageConfig.from_dict(tiny_z_image.TRANSFORMER)

    def test_tokens_are_filled_up_to_multiples_of_32(self):
        layout = make_layout(self.config, rows=3, columns=5, caption_lengths=[33])
        assert layout.image_rotary[0].shape == (1, 1, 32, 32)
        assert layout.caption_rotary[0].shape == (1, 1, 64, 32)
        assert int(layout.caption_pads.sum()) == 31
        assert layout.caption_mask is None

    def test_captions_of_other_lengths_are_masked_and_move_their_own_image(self):
        layout = make_layout(self.config, rows=4, columns=8, caption_lengths=[10, 70])
        assert layout.joint_mask.shape == (2, 1, 1, 32 + 96)
        assert [int(row.sum()) for row in layout.joint_mask] == [32 + 32, 32 + 96]
        assert not mx.array_equal(layout.image_rotary[0][0], layout.image_rotary[0][1])


class TestMemory:
    def plan(self, folder, bits=None):
        return plan_memory(
            open_model(folder), width=64, height=64, guided=False, bytes_per_weight=4, quantization_bits=bits
        ).weights_bytes

    @pytest.mark.parametrize("bits", [None, 4, 5, 6, 8])
    def test_weights_are_counted_as_they_are_loaded(self, folder, bits):
        planned = self.plan(folder, bits)
        pipeline = load_pipeline(folder, dtype="float32", quantization_bits=bits)
        pipeline.preload()
        assert planned["transformer"] == pytest.approx(pipeline.components["transformer"], rel=0.02)

    def test_parts_in_one_file_are_counted_once(self, tmp_path):
        apart, together = write_comfy(tmp_path / "apart"), write_comfy(tmp_path / "one", in_one=True)
        assert self.plan(together) == self.plan(apart)
