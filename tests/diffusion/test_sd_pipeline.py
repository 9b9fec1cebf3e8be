"""What a Stable Diffusion pipeline promises its callers."""

import json

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion import load_pipeline, ops
from swiftai_nb.diffusion.noise import start_noise, step_noise
from swiftai_nb.model_files.folder import open_model
from tests.diffusion.sd_folders import write_folder, write_json


@pytest.fixture(scope="module")
def pipeline(sd15_folder):
    return load_pipeline(sd15_folder, dtype="float32")


@pytest.fixture(scope="module")
def conditioning(pipeline):
    return pipeline.encode_prompt("a photo of a cat", guidance_scale=1)


def last(steps):
    *_, step = steps
    return step


SMALL = {"width": 32, "height": 24, "steps": 2}


class TestNoise:
    def test_the_recipe_is_what_the_docs_say(self):
        expected = np.random.Generator(np.random.Philox(7)).standard_normal((3, 4, 4), dtype=np.float32)
        assert np.array_equal(start_noise(7, (1, 3, 4, 4))[0], expected)
        fresh = np.random.Generator(np.random.Philox([7, 3])).standard_normal((3, 4, 4), dtype=np.float32)
        assert np.array_equal(step_noise(7)(2, (1, 3, 4, 4))[0], fresh)

    def test_picture_k_of_a_batch_is_picture_0_of_seed_plus_k(self):
        assert np.array_equal(start_noise(7, (3, 2, 2, 4))[2], start_noise(9, (1, 2, 2, 4))[0])
        assert np.array_equal(step_noise(7)(5, (3, 2, 2, 4))[2], step_noise(9)(5, (1, 2, 2, 4))[0])

    def test_steps_and_start_have_different_noise(self):
        shape = (1, 4, 4, 4)
        drawn = [start_noise(0, shape), *(step_noise(0)(i, shape) for i in range(3))]
        assert len({a.tobytes() for a in drawn}) == 4


class TestSeeds:
    def test_same_seed_same_latents_other_seed_others(self, pipeline, conditioning):
        a, b, c = (last(pipeline.denoise(conditioning, seed=s, **SMALL)).latents for s in (1, 1, 2))
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)

    @pytest.mark.parametrize("scheduler", ["ddim", "euler-a"])
    def test_each_picture_of_a_batch_can_be_remade_alone(self, pipeline, scheduler):
        both = pipeline.encode_prompt(["a cat", "a dog"], guidance_scale=1)
        together = last(pipeline.denoise(both, seed=5, scheduler=scheduler, **SMALL)).latents
        alone = pipeline.encode_prompt("a dog", guidance_scale=1)
        second = last(pipeline.denoise(alone, seed=6, scheduler=scheduler, **SMALL)).latents
        assert np.abs(together[1] - second[0]).max() < 1e-4

    def test_latents_given_are_the_unit_normal_start(self, pipeline, conditioning):
        start = start_noise(3, (1, 3, 4, 4))
        given = last(pipeline.denoise(conditioning, latents=start, **SMALL)).latents
        assert np.array_equal(given, last(pipeline.denoise(conditioning, seed=3, **SMALL)).latents)

    def test_noise_source_is_asked_at_every_step_with_the_shape(self, pipeline, conditioning):
        asked = []

        def noise(step_index, shape):
            asked.append((step_index, shape))
            return np.zeros(shape)

        last(pipeline.denoise(conditioning, noise=noise, scheduler="euler-a", **SMALL))
        assert asked == [(0, (1, 3, 4, 4)), (1, (1, 3, 4, 4))]


class TestSteps:
    def test_index_total_and_evaluated_arrays(self, pipeline, conditioning):
        steps = list(pipeline.denoise(conditioning, **SMALL))
        assert [(s.index, s.total) for s in steps] == [(0, 3), (1, 3), (2, 3)]
        for step in steps:
            for array in (step.latents, step.denoised):
                assert array.shape == (1, 3, 4, 4)
                assert array.dtype == np.float32

    def test_nothing_is_computed_before_the_first_step_is_asked_for(self, sd15_folder):
        pipeline = load_pipeline(sd15_folder)
        conditioning = pipeline.encode_prompt("a cat", guidance_scale=1)
        steps = pipeline.denoise(conditioning, **SMALL)
        assert pipeline.components["unet"] == 0
        next(steps)
        assert pipeline.components["unet"] > 0

    @pytest.mark.cpu
    def test_a_block_callback_stops_it_in_the_middle_and_the_next_run_works(self, pipeline, conditioning):
        class StopError(Exception):
            pass

        calls = []

        def stop():
            calls.append(1)
            if len(calls) == 4:
                raise StopError

        ops.set_block_callback(stop)
        try:
            with pytest.raises(StopError):
                last(pipeline.denoise(conditioning, **SMALL))
        finally:
            ops.set_block_callback(None)
        assert len(list(pipeline.denoise(conditioning, **SMALL))) == 3


class TestPrompts:
    def test_a_long_prompt_is_cut_with_a_note_that_names_the_words(self, pipeline):
        words = " ".join(f"w{i}" for i in range(60))
        (note,) = pipeline.encode_prompt(words, guidance_scale=1).notes
        assert "75" in note
        assert "w59" in note or "..." in note
        assert "w0 " not in note

    def test_a_huge_prompt_gives_a_short_note(self, pipeline):
        notes = pipeline.encode_prompt("cat " * 25_000, negative_prompt="dog " * 100).notes
        assert len(notes) == 2
        assert all(len(note) < 250 for note in notes)

    def test_without_spaces_the_note_names_only_what_was_cut(self, pipeline):
        (note,) = pipeline.encode_prompt("x" * 100, guidance_scale=1).notes
        assert f": {'x' * 25};" in note

    def test_half_a_surrogate_pair_is_no_crash(self, pipeline):
        assert pipeline.encode_prompt("a \ud800 cat", guidance_scale=1).notes == ()

    @pytest.mark.parametrize(
        ("negative", "scale", "noted"), [("dog", 1, 1), ("dog", 2, 0), ("", 1, 0), (None, 0, 0)]
    )
    def test_a_negative_prompt_that_nothing_uses_is_noted(self, pipeline, negative, scale, noted):
        notes = pipeline.encode_prompt("a cat", negative, guidance_scale=scale).notes
        assert len([note for note in notes if "guidance_scale above 1" in note]) == noted

    def test_a_short_prompt_gives_none(self, conditioning):
        assert conditioning.notes == ()

    @pytest.mark.parametrize(("scale", "guided"), [(0.0, False), (1.0, False), (1.01, True)])
    def test_guidance_needs_a_scale_above_one(self, pipeline, scale, guided):
        conditioning = pipeline.encode_prompt("a cat", guidance_scale=scale)
        assert (conditioning.negative_prompt_embeds is not None) == guided

    def test_clip_skip_zero_is_none_and_concerns_the_prompt_only(self, pipeline):
        none, zero, two = (pipeline.encode_prompt("a cat", clip_skip=n) for n in (None, 0, 2))
        assert np.array_equal(np.array(none.prompt_embeds), np.array(zero.prompt_embeds))
        assert not np.array_equal(np.array(none.prompt_embeds), np.array(two.prompt_embeds))
        assert np.array_equal(np.array(none.negative_prompt_embeds), np.array(two.negative_prompt_embeds))

    @pytest.mark.parametrize("clip_skip", [4, 12, -1])
    def test_clip_skip_beyond_the_layers(self, pipeline, clip_skip):
        with pytest.raises(InvalidInputError, match="clip_skip"):
            pipeline.encode_prompt("a cat", clip_skip=clip_skip)

    def test_negative_prompts_of_another_number(self, pipeline):
        with pytest.raises(InvalidInputError, match="2 negative prompts for 3"):
            pipeline.encode_prompt(["a", "b", "c"], negative_prompt=["x", "y"])


class TestPictures:
    def test_strength_zero_gives_the_picture_back(self, pipeline, conditioning):
        image = start_noise(1, (1, 3, 4, 4))
        (step,) = pipeline.denoise(conditioning, image_latents=image, strength=0.0, **SMALL)
        assert np.array_equal(step.latents, image)

    def test_more_strength_leaves_it_further(self, pipeline, conditioning):
        image = start_noise(1, (1, 3, 4, 4))
        size = {"width": 32, "height": 24, "steps": 10, "scheduler": "ddim"}
        weak, strong = (
            np.abs(
                last(pipeline.denoise(conditioning, image_latents=image, strength=s, **size)).latents - image
            )
            for s in (0.1, 1.0)
        )
        assert weak.mean() < strong.mean()

    def test_where_the_mask_is_black_the_picture_stays(self, pipeline, conditioning):
        image, mask = start_noise(1, (1, 3, 4, 4)), np.zeros((3, 4, 1), np.float32)
        mask[:, 2:] = 1
        step = last(pipeline.denoise(conditioning, image_latents=image, mask=mask, **SMALL))
        assert np.abs(step.latents - image)[:, :, :2].max() < 1e-6
        assert np.abs(step.latents - image)[:, :, 2:].max() > 1e-2

    @pytest.mark.parametrize(
        "bad",
        [
            {"width": 0},
            {"width": 7},
            {"height": 100},
            {"width": -8},
            {"steps": 0},
            {"strength": 1.5, "image_latents": np.zeros((1, 3, 4, 4), np.float32)},
            {"strength": float("nan"), "image_latents": np.zeros((1, 3, 4, 4), np.float32)},
            {"mask": np.zeros((3, 4, 1), np.float32)},
            {"mask": np.zeros((4, 3, 1), np.float32), "image_latents": np.zeros((1, 3, 4, 4), np.float32)},
            {"image_latents": np.zeros((1, 4, 4, 4), np.float32)},
            {"latents": np.zeros((1, 3, 4, 3), np.float32)},
            {"latents": np.zeros((3, 4, 4), np.float32)},
            {"scheduler": "flow-match-euler"},
            {"scheduler": "edm-euler"},
            {"scheduler": "magic"},
        ],
    )
    def test_what_does_not_fit_is_refused_before_any_work(self, sd15_folder, conditioning, bad):
        pipeline = load_pipeline(sd15_folder)
        with pytest.raises(InvalidInputError):
            pipeline.denoise(conditioning, **{**SMALL, **bad})
        assert pipeline.components["unet"] == 0

    def test_decoding_and_encoding_refuse_other_shapes(self, pipeline):
        with pytest.raises(InvalidInputError, match="latents"):
            pipeline.decode(np.zeros((1, 4, 4, 3), np.float32))
        with pytest.raises(InvalidInputError, match="image"):
            pipeline.encode_image(np.zeros((30, 32, 3), np.uint8))
        with pytest.raises(InvalidInputError, match="image"):
            pipeline.encode_image(np.zeros((32, 32, 4), np.uint8))

    def test_preview_is_one_small_pixel_per_latent(self, pipeline):
        preview = pipeline.preview(start_noise(1, (2, 3, 4, 4)))
        assert preview.shape == (2, 3, 4, 3)
        assert preview.dtype == np.uint8

    def test_preview_map_can_come_with_the_folder(self, sd15_copy):
        factors = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
        write_json(sd15_copy / "preview.json", {"factors": factors, "bias": [0, 0, 1]})
        latents = np.zeros((1, 1, 1, 4), np.float32)
        latents[..., 0] = -1
        assert load_pipeline(sd15_copy).preview(latents).ravel().tolist() == [0, 128, 255]


def test_defaults_come_from_the_folder(pipeline, sd15_copy):
    assert (pipeline.defaults.width, pipeline.defaults.height) == (64, 64)
    assert pipeline.defaults.scheduler == "pndm"
    assert (pipeline.size_multiple, pipeline.latent_channels, pipeline.vae_scale) == (8, 4, 8)
    write_json(sd15_copy / "generation_defaults.json", {"steps": 3, "scheduler": "euler", "width": None})
    changed = load_pipeline(sd15_copy).defaults
    assert (changed.steps, changed.scheduler, changed.width) == (3, "euler", 64)


@pytest.mark.parametrize(
    ("changes", "steps", "guidance_scale"),
    [
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, 4, 0.0),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "timestep_spacing": "trailing",
                "rescale_betas_zero_snr": True,
            },
            20,
            7.5,
        ),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, 20, 7.5),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, 20, 7.5),
    ],
)
def test_a_folder_of_sd_turbo_knows_its_few_steps(tmp_path, changes, steps, guidance_scale):
    folder = write_folder(tmp_path / "model", "sd15")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    defaults, facts = load_pipeline(folder).defaults, open_model(folder)
    assert (defaults.steps, defaults.guidance_scale) == (steps, guidance_scale)
    assert facts.is_turbo is (steps == 4)
