"""MLXImageProvider with the bundled model and a real engine process."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core import machine
from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import (
    EngineDiedError,
    GenerationCancelledError,
    InsufficientMemoryError,
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    UnsupportedModelError,
    UnsupportedPlatformError,
)
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.engine.kernel import platform as platform_check
from swiftai_nb.jobs.job import JobState
from swiftai_nb.jobs.queue import JobQueue
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.flux2_folders import write_klein
from tests.diffusion.z_image_folders import write_diffusers as write_z_image
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "swiftai_nb" / "assets" / "emoji-mini"
DEFAULTS = json.loads((MODEL / "generation_defaults.json").read_text())
SIDE = DEFAULTS["width"]
QUICK = ImageGenerationConfig(steps=2, seed=7)
LONG = ImageGenerationConfig(steps=1000, seed=7)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def provider(home):
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home, cache_dir=home / "hub"))
    yield provider
    provider.close()


@pytest.fixture
def model_copy(tmp_path):
    return Path(shutil.copytree(MODEL, tmp_path / "my-model"))


def make(provider, prompt="a red apple", config=QUICK, **options):
    return asyncio.run(provider.generate_image(prompt, config=config, **options))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if sys.platform == "linux" else True


# --- a picture and its recipe ---


def test_a_picture_comes_with_all_that_remakes_it(provider):
    image = make(provider, negative_prompt="blurry")
    recipe = image.recipe
    assert (image.width, image.height) == (SIDE, SIDE)
    assert (recipe.model, recipe.engine, recipe.device, recipe.dtype) == (
        "emoji-mini",
        "mlx",
        "cpu",
        "float32",
    )
    assert (recipe.steps, recipe.guidance_scale, recipe.scheduler, recipe.seed) == (
        2,
        DEFAULTS["guidance_scale"],
        "ddim",
        7,
    )
    assert recipe.negative_prompt == "blurry"
    assert recipe.model_revision.startswith("sha256:")
    assert {"swiftai_nb", "mlx", "numpy"} <= recipe.versions.keys()
    remade = make(provider, recipe.prompt, recipe.to_config(), negative_prompt=recipe.negative_prompt)
    assert remade.data == image.data


def test_the_same_seed_gives_the_same_bytes_in_either_isolation_and_in_a_new_engine(home, provider):
    image = make(provider)
    for isolation in ("process", "thread"):
        other = MLXImageProvider(isolation, provider.registry)
        assert make(other).data == image.data
        other.close()


def test_settings_left_open_are_the_models_own(provider):
    plan = provider.plan("a cat")
    assert [plan.width, plan.height, plan.steps, plan.guidance_scale] == [
        DEFAULTS[name] for name in ("width", "height", "steps", "guidance_scale")
    ]
    assert (plan.model, plan.scheduler, plan.device, plan.precision) == (
        "emoji-mini",
        "ddim",
        "cpu",
        "float32",
    )
    assert provider.plan("a cat", ImageGenerationConfig.fast()).steps == DEFAULTS["steps"] // 2
    assert 0 < plan.memory_bytes < 1e9
    assert "GB" in plan.memory
    assert plan.memory_plan


@pytest.mark.parametrize(
    ("scheduler", "planned", "is_noted"),
    [("dpmpp_2m_sde", "dpm++2m-sde", True), ("Euler a Beta", "euler-a-beta", True), ("DDIM", "ddim", False)],
)
def test_a_sampler_of_another_tools_name_is_planned_and_an_eta_without_effect_is_noted(
    provider, scheduler, planned, is_noted
):
    plan = provider.plan("a cat", ImageGenerationConfig(scheduler=scheduler, eta=0.5))
    assert plan.scheduler == planned
    assert any("eta has no effect" in note for note in plan.notes) is is_noted


def test_guidance_rescale_without_guidance_is_noted(provider):
    plan = provider.plan("a cat", ImageGenerationConfig(guidance_rescale=0.7, guidance_scale=1.0))
    assert any("guidance_rescale has no effect" in note for note in plan.notes)
    assert not provider.plan("a cat", ImageGenerationConfig(guidance_rescale=0.7, guidance_scale=5.0)).notes


def test_guidance_rescale_has_an_effect_on_z_image_and_none_on_klein(provider, tmp_path):
    for write, has_note in ((write_z_image, False), (write_klein, True)):
        config = ImageGenerationConfig(
            model=str(write(tmp_path / write.__name__)), guidance_rescale=0.7, guidance_scale=5.0
        )
        notes = provider.plan("a cat", config).notes
        assert any("guidance_rescale has no effect" in note for note in notes) is has_note


def test_sampling_settings_reach_the_engine_and_the_recipe(provider):
    plain = ImageGenerationConfig(seed=3, steps=2, guidance_scale=6.0, scheduler="ddim")
    first = make(provider, config=plain)
    changed = make(provider, config=plain.replace(guidance_rescale=0.7, eta=1.0))
    assert first.data != changed.data
    assert (changed.recipe.guidance_rescale, changed.recipe.eta) == (0.7, 1.0)
    assert make(provider, config=changed.recipe.to_config()).data == changed.data


def test_another_autoencoder_reaches_the_engine_and_the_recipe(provider, tmp_path):
    from tests.diffusion.parity.seeded_weights import seeded_weights
    from tests.diffusion.parity.tiny_flux import REFERENCES
    from tests.diffusion.sd_folders import write_safetensors

    with np.load(REFERENCES / "tiny_vae.npz") as file:
        shapes = json.loads(bytes(file["shapes"]))
    config = ImageGenerationConfig(seed=3, steps=2, vae=str(tmp_path / "taesd.safetensors"))
    arrays = seeded_weights({name: tuple(shape) for name, shape in shapes.items()})
    write_safetensors(tmp_path / "taesd.safetensors", arrays)
    with pytest.raises(UnsupportedModelError, match="latents of 4 channels, the model's have 16"):
        make(provider, config=config)
    for name in [name for name, array in arrays.items() if 4 in array.shape]:  # its ends
        last = tuple(16 if side == 4 else side for side in arrays[name].shape)
        arrays[name] = np.resize(arrays[name], last)
    write_safetensors(tmp_path / "taesd.safetensors", arrays)
    changed = make(provider, config=config)
    assert changed.recipe.vae == str(tmp_path / "taesd.safetensors")
    assert changed.data != make(provider, config=config.replace(vae=None)).data
    assert make(provider, config=changed.recipe.to_config()).data == changed.data
    with pytest.raises(ModelNotFoundError):
        make(provider, config=config.replace(vae="none"))


def test_the_prompt_syntax_reaches_the_engine_and_the_recipe(provider):
    config = ImageGenerationConfig(seed=3, steps=2)
    plain, weighted = (
        make(provider, config=config.replace(prompt_syntax=syntax), prompt="a (red:1.5) apple")
        for syntax in ("plain", "weighted")
    )
    assert plain.data != weighted.data
    assert (plain.recipe.prompt_syntax, weighted.recipe.prompt_syntax) == ("plain", "weighted")
    assert weighted.recipe.to_config().prompt_syntax == "weighted"


def test_a_textual_inversion_reaches_the_engine_and_the_recipe(provider, tmp_path):
    from tests.diffusion.flux_folders import save

    config = json.loads((MODEL / "text_encoder" / "config.json").read_text("utf-8"))
    vectors = np.random.default_rng(2).standard_normal((2, config["hidden_size"]), dtype=np.float32)
    file = tmp_path / "myword.safetensors"
    save(file, {"emb_params": vectors})
    plain = ImageGenerationConfig(seed=3, steps=2)
    first, changed = (
        make(provider, config=one, prompt="a red myword")
        for one in (plain, plain.replace(embeddings=(str(file),)))
    )
    assert first.data != changed.data
    assert changed.recipe.embeddings == (str(file),)
    assert make(provider, config=changed.recipe.to_config(), prompt="a red myword").data == changed.data
    assert make(provider, config=plain, prompt="a red myword").data == first.data
    with pytest.raises(ModelNotFoundError, match="there is no embedding"):
        make(provider, config=plain.replace(embeddings=("none.safetensors",)))


def test_the_plan_knows_what_the_pipeline_knows():
    from swiftai_nb.diffusion import load_pipeline
    from swiftai_nb.model_files.folder import open_model

    pipeline, facts = load_pipeline(MODEL), open_model(MODEL)
    assert facts.size_multiple == pipeline.size_multiple
    assert facts.given["width"] == pipeline.defaults.width
    assert facts.given["steps"] == pipeline.defaults.steps
    assert facts.defaults.scheduler == pipeline.defaults.scheduler


def test_times_of_earlier_pictures_give_an_estimate(provider):
    make(provider)
    estimate_s = provider.plan("a cat").estimated_s
    assert estimate_s > 0
    longer = provider.plan("a cat", ImageGenerationConfig(steps=160)).estimated_s
    assert longer > estimate_s


def test_progress_names_its_stages_and_shows_first_and_last_step(home):
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home))
    seen = []
    make(provider, on_progress=seen.append)
    provider.close()
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == [
        GenerationStage.STARTING_ENGINE,
        GenerationStage.LOADING_MODEL,
        GenerationStage.ENCODING_PROMPT,
        GenerationStage.DENOISING,
        GenerationStage.DECODING,
    ]
    steps = [progress for progress in seen if progress.preview is not None]
    assert [progress.current_step for progress in steps] == [1, 2]
    assert steps[0].preview.startswith(b"\xff\xd8")


def test_preview_off_sends_none(provider):
    seen = []
    make(provider, config=QUICK.replace(preview="off"), on_progress=seen.append)
    assert seen
    assert not any(progress.preview for progress in seen)


def test_a_prompt_of_100_000_characters_works_and_says_what_was_cut(provider):
    started = time.monotonic()
    image = make(provider, "a red apple " * 8334)
    assert any("truncated" in note for note in image.recipe.notes)
    assert time.monotonic() - started < 30
    assert Recipe.from_image(image.pil if image.recipe is None else image) == image.recipe


def test_a_plan_is_made_once_and_serves_every_picture(provider, monkeypatch):
    request = GenerationRequest.of("a red apple", QUICK, count=2)
    plan = provider.plan(request)
    for owner, name in ((provider.registry, "resolve"), (provider, "plan")):
        monkeypatch.setattr(owner, name, lambda *_arguments, **_options: pytest.fail("asked again"))
    images = [asyncio.run(provider.generate(plan, index=index)) for index in range(2)]
    assert [image.seed for image in images] == [7, 8]
    monkeypatch.undo()
    assert images[1].data == make(provider, config=QUICK.replace(seed=8)).data


def test_a_plan_of_another_provider_is_refused(provider):
    plan = GenerationPlan.of(GenerationRequest.of("a cat"))
    with pytest.raises(InvalidInputError, match="made by another provider"):
        asyncio.run(provider.generate(plan))


# --- pictures from pictures ---


def test_image_to_image_starts_from_the_picture(provider):
    start = make(provider, "a green tree", ImageGenerationConfig(steps=8, seed=1))
    near = make(provider, config=ImageGenerationConfig(steps=8, seed=2, image=start.data, strength=0.2))
    far = make(provider, config=ImageGenerationConfig(steps=8, seed=2, image=start.data, strength=1.0))
    assert distance(near, start) < distance(far, start)
    assert near.recipe.strength == 0.2
    assert near.recipe.image_sha256
    default = provider.plan("a cat", ImageGenerationConfig(image=start.data))
    assert default.strength == 0.8


@pytest.mark.parametrize(
    ("steps", "strength", "run_steps", "noted"),
    [(2, 0.02, 1, True), (2, 0.7, 1, True), (20, 0.5, 10, False), (8, 0.2, 1, False), (4, 0.0, 0, False)],
)
def test_a_strength_that_few_steps_cannot_give_is_noted(provider, steps, strength, run_steps, noted):
    picture = GeneratedImage.from_pixels(np.zeros((SIDE, SIDE, 3), np.uint8)).data
    plan = provider.plan("a cat", ImageGenerationConfig(steps=steps, strength=strength, image=picture))
    assert plan.run_steps == run_steps
    assert any(note.startswith(f"strength {strength:g}") for note in plan.notes) is noted


def test_a_start_picture_gives_its_proportions(provider):
    pixels = np.zeros((300, 600, 3), np.uint8)
    config = QUICK.replace(image=GeneratedImage.from_pixels(pixels).data)
    plan = provider.plan("a cat", config)
    assert abs(plan.width / plan.height - 2) < 0.3
    assert plan.width % 32 == plan.height % 32 == 0
    image = make(provider, config=config)
    assert (image.width, image.height) == (plan.width, plan.height)


def test_what_the_mask_leaves_black_keeps_its_pixels(provider):
    start = make(provider, config=ImageGenerationConfig(steps=4, seed=1))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, SIDE // 2 :] = 255
    from PIL import Image

    from swiftai_nb.core.image_input import to_png_bytes

    mask_png = to_png_bytes(Image.fromarray(mask))
    config = ImageGenerationConfig(steps=4, seed=9, image=start.data, mask=mask_png, strength=1.0)
    made = np.asarray(make(provider, "a blue car", config).pil)
    before = np.asarray(start.pil)
    assert np.array_equal(made[:, : SIDE // 2], before[:, : SIDE // 2])
    assert not np.array_equal(made[:, SIDE // 2 :], before[:, SIDE // 2 :])


def distance(a, b):
    return float(np.abs(np.asarray(a.pil, np.float32) - np.asarray(b.pil, np.float32)).mean())


# --- refused before any work ---


@pytest.mark.parametrize(
    ("config", "kind", "words", "hint"),
    [
        ({"width": 66}, InvalidInputError, "width 66 is not a multiple of 32", "use 64 or 96"),
        ({"height": 17}, InvalidInputError, "height 17", "use 32"),
        ({"scheduler": "eulr"}, InvalidInputError, "no scheduler named 'eulr'", "ddim"),
        ({"scheduler": "flow-match-euler"}, InvalidInputError, "does not fit", "ddim"),
        ({"strength": 0.5}, InvalidInputError, "strength without image", "image"),
        ({"image": b"not a picture"}, InvalidInputError, "cannot read a picture", "path"),
        ({"model": "no-such-model"}, ModelNotFoundError, "no-such-model", "emoji-mini"),
        ({"model": "sdxl-turbo"}, ModelNotDownloadedError, "sdxl-turbo is not downloaded", "download"),
        ({"loras": (LoraReference("gone.safetensors"),)}, ModelNotFoundError, "gone.safetensors", "file"),
        ({"preview": "taesd"}, InvalidInputError, "no small preview decoder", "rgb"),
    ],
)
def test_bad_input_is_refused_without_starting_an_engine(home, config, kind, words, hint):
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home, cache_dir=home / "hub"))
    with pytest.raises(kind, match=words) as caught:
        make(provider, config=ImageGenerationConfig(**config))
    assert hint in caught.value.hint
    assert provider.engine_pid is None


@pytest.mark.parametrize("prompt", ["", "  \n", None, 7])
def test_a_prompt_that_says_nothing_is_refused(provider, prompt):
    for ask in (make, MLXImageProvider.plan):
        with pytest.raises(InvalidInputError, match="the prompt is empty"):
            ask(provider, prompt)


def test_a_model_too_large_for_the_memory_is_refused_with_advice(home):
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home), memory_limit_bytes=10_000_000)
    for ask in (make, MLXImageProvider.plan):
        with pytest.raises(InsufficientMemoryError, match="needs about") as caught:
            ask(provider, "a cat")
        assert "smaller" in caught.value.hint
    with pytest.raises(InsufficientMemoryError):
        asyncio.run(provider.load_model("emoji-mini"))
    assert provider.engine_pid is None


def test_a_loaded_model_counts_once_but_a_huge_picture_is_still_refused(provider, monkeypatch):
    make(provider)
    need = provider.plan("a cat").memory_bytes
    held = machine._resident_bytes(provider.engine_pid)
    assert held > 50_000_000
    monkeypatch.setattr(machine, "_available_in_system", lambda total: need - held // 2)
    assert provider.plan("a cat").memory_plan_bytes.is_staged is False
    with pytest.raises(InsufficientMemoryError, match="needs about"):
        provider.plan("a cat", ImageGenerationConfig(width=2048, height=2048))


def engine_after_a_picture(home, monkeypatch, machine_gb):
    monkeypatch.setenv("SWIFTAI_MEMORY_GB", machine_gb)
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home))
    try:
        image, status = make(provider), asyncio.run(provider.status())
        return image.data, status
    finally:
        provider.close()


def test_the_policy_of_the_machine_frees_or_keeps_the_model(home, monkeypatch):
    """On 1 GB (an eighth is kept) each network goes after its use; on 24 GB all of them stay."""
    small, freed = engine_after_a_picture(home, monkeypatch, "1")
    large, kept = engine_after_a_picture(home, monkeypatch, "24")
    assert small == large
    assert set(freed.components.values()) == {0}
    assert min(kept.components.values()) > 0
    assert kept.active_memory_bytes >= sum(kept.components.values()) > 10 * freed.active_memory_bytes
    assert freed.peak_memory_bytes < kept.peak_memory_bytes - kept.components["text_encoder"] // 2


def test_a_tight_memory_drops_each_network_after_its_use(home, provider):
    need = provider.plan("a cat").memory_plan_bytes
    tight = MLXImageProvider(registry=provider.registry, memory_limit_bytes=need.peak_bytes - 1_000_000)
    assert tight.plan("a cat").memory_plan_bytes.is_staged
    assert make(tight).data == make(provider).data
    assert set(asyncio.run(tight.status()).components.values()) == {0}
    tight.close()


def test_an_unknown_isolation_is_refused():
    with pytest.raises(InvalidInputError, match="isolation 'fiber'"):
        MLXImageProvider("fiber")


# --- model files ---


def test_a_folder_is_a_model_by_its_path(provider, model_copy):
    image = make(provider, config=QUICK.replace(model=str(model_copy)))
    assert image.recipe.model == str(model_copy)
    default = make(provider)
    assert default.recipe.model == "emoji-mini", "only load_model changes the default"
    assert np.array_equal(np.asarray(image.pil), np.asarray(default.pil))


DAMAGES = ["corrupt", "truncated", "misshapen", "missing tensor", "bad json", "no unet"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_named(provider, model_copy, damage):
    unet = model_copy / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    words = _damage(damage, unet, weights)
    with pytest.raises((InvalidModelFilesError, UnsupportedModelError), match=words) as caught:
        make(provider, config=QUICK.replace(model=str(model_copy)))
    assert "\n" not in caught.value.message
    assert make(provider).width == SIDE, "the engine goes on"


def _damage(damage, unet, weights):
    if damage == "no unet":
        shutil.rmtree(unet)
        return "unet has no config.json"
    if damage == "bad json":
        (unet / "config.json").write_text("{")
        return "config.json"
    data = weights.read_bytes()
    if damage == "corrupt":
        weights.write_bytes(b"\xff" * len(data))
        return "diffusion_pytorch_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(data[: len(data) // 2])
        return "diffusion_pytorch_model.safetensors"
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = "conv_in.bias"
    if damage == "missing tensor":
        header["conv_in.other"] = header.pop(name)
    else:
        header[name]["shape"] = [header[name]["shape"][0] // 2, 2]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return "conv_in"


def test_replaced_files_are_read_anew(provider, model_copy):
    config = QUICK.replace(model=str(model_copy))
    first = make(provider, config=config)
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000:] = bytes(1000)
    weights.write_bytes(data)
    second = make(provider, config=config)
    assert first.recipe.model_revision != second.recipe.model_revision


@pytest.fixture
def lora_file(tmp_path):
    """A LoRA that changes one linear map of the bundled model's text encoder."""
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    draw = np.random.default_rng(0).standard_normal
    down, up = (draw(shape).astype(np.float32) for shape in ((4, 192), (192, 4)))
    header = {
        f"{name}.lora_A.weight": {"dtype": "F32", "shape": [4, 192], "data_offsets": [0, 3072]},
        f"{name}.lora_B.weight": {"dtype": "F32", "shape": [192, 4], "data_offsets": [3072, 6144]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "style.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + down.tobytes() + up.tobytes())
    return path


def test_a_lora_changes_the_picture_and_goes_without_a_trace(provider, lora_file, monkeypatch):
    plain = make(provider)
    monkeypatch.chdir(lora_file.parent)
    styled = make(provider, config=QUICK.replace(loras=(LoraReference("style.safetensors", 1.0),)))
    off = make(provider, config=QUICK.replace(loras=(LoraReference("style.safetensors", 0.0),)))
    assert styled.recipe.loras == (LoraReference("style.safetensors", 1.0),)
    assert styled.pil.tobytes() != plain.pil.tobytes()
    assert off.pil.tobytes() == plain.pil.tobytes()
    assert make(provider).data == plain.data


def test_a_file_that_is_no_lora_is_refused_and_the_model_stays_good(provider, tmp_path):
    plain = make(provider)
    wrong = MODEL / "vae" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InvalidModelFilesError):
        make(provider, config=QUICK.replace(loras=(LoraReference(str(wrong)),)))
    assert make(provider).data == plain.data


# --- loading and unloading ---


def test_load_and_unload(home):
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home))
    assert provider.loaded_model_id is None

    async def use():
        await provider.unload_model()
        await provider.load_model("emoji-mini")
        assert (provider.loaded_model_id, str(provider.loaded_variant)) == ("emoji-mini", "sd-1.5")
        assert all((await provider.status()).components.values())
        image = await provider.generate_image("a cat", config=QUICK)
        await provider.unload_model()
        assert provider.loaded_model_id is None
        assert (await provider.status()).folder == ""
        again = await provider.generate_image("a cat", config=QUICK)
        assert again.data == image.data
        await provider.load_model(MODEL)
        assert provider.plan("a cat").model == "emoji-mini", "a known model's folder goes by its name"
        with pytest.raises(InvalidInputError, match="not sdxl"):
            await provider.load_model("emoji-mini", "sdxl")
        with pytest.raises(ModelNotFoundError):
            await provider.load_model("/no/such/folder")

    asyncio.run(use())
    provider.close()
    assert provider.loaded_model_id is None


# --- cancel, death, and other accidents ---


def test_cancel_at_random_moments_ends_quickly_and_leaves_a_good_engine(provider):
    reference = make(provider)
    pid, chance, waits = provider.engine_pid, random.Random(1), []

    async def cancel_one(delay_s):
        task = asyncio.create_task(provider.generate_image("a cat", config=LONG))
        await asyncio.sleep(delay_s)  # sleep: a random moment of the call
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waits.append(time.monotonic() - started)

    for _ in range(20):
        asyncio.run(cancel_one(chance.uniform(0.0, 0.3)))
    assert provider.engine_pid == pid, "no engine had to be replaced"
    assert make(provider).data == reference.data
    assert sorted(waits)[10] < 1.0, waits  # the middle one: a busy machine may delay single ones
    assert max(waits) < 4.0, waits


def test_cancel_generation_says_how_far_it_was(provider):
    async def use():
        stepped = asyncio.Event()
        loop = asyncio.get_running_loop()
        tell = lambda p: p.current_step and loop.call_soon_threadsafe(stepped.set)  # noqa: E731
        task = asyncio.create_task(provider.generate_image("a cat", config=LONG, on_progress=tell))
        await stepped.wait()
        await provider.cancel_generation()
        await task

    with pytest.raises(GenerationCancelledError, match=r"Cancelled at step \d+ of 1000") as caught:
        asyncio.run(use())
    assert caught.value.total_steps == 1000


def test_a_queue_of_three_with_the_middle_one_cancelled(provider):
    queue = JobQueue()
    config = ImageGenerationConfig(steps=2)
    jobs = [queue.submit(GenerationRequest(f"cat {n}", None, config, (n,)), provider) for n in range(3)]
    jobs[1].cancel()
    assert len(jobs[2].result(180)) == 1
    assert [job.state for job in jobs] == [JobState.DONE, JobState.CANCELLED, JobState.DONE]
    queue.close()


def test_kill_9_in_mid_job_fails_that_job_with_advice_and_the_next_one_works(provider):
    reference = make(provider)
    queue, stepped = JobQueue(), threading.Event()
    job = queue.submit(GenerationRequest("a cat", None, LONG, (7,)), provider)
    job.subscribe(lambda j: stepped.set() if j.progress is not None and j.progress.current_step else None)
    assert stepped.wait(180)
    os.kill(provider.engine_pid, signal.SIGKILL)
    with pytest.raises(EngineDiedError, match="SIGKILL") as caught:
        job.result(180)
    assert "smaller size" in caught.value.hint
    assert job.state is JobState.FAILED
    assert job.last_preview is not None
    assert make(provider).data == reference.data
    queue.close()


def test_two_kernels_at_once_make_the_same_picture_and_leave_no_engine(provider, home):
    code = (
        "import asyncio, hashlib, sys\n"
        "from swiftai_nb import MLXImageProvider, ImageGenerationConfig\n"
        "provider = MLXImageProvider()\n"
        "make = provider.generate_image('a red apple', config=ImageGenerationConfig(steps=2, seed=7))\n"
        "image = asyncio.run(make)\n"
        "assert 'mlx' not in sys.modules and 'huggingface_hub' not in sys.modules\n"
        "print(hashlib.sha256(image.data).hexdigest(), provider.engine_pid)\n"
    )
    environment = {**os.environ, "SWIFTAI_HOME": str(home)}
    command, options = [sys.executable, "-c", code], {"cwd": ROOT, "env": environment, "text": True}
    kernels = [subprocess.Popen(command, stdout=subprocess.PIPE, **options) for _ in range(2)]
    outputs = [kernel.communicate(timeout=240)[0].split() for kernel in kernels]
    assert [kernel.returncode for kernel in kernels] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    wait_until(lambda: not any(is_alive(int(output[1])) for output in outputs))


def test_it_works_inside_a_running_loop_and_leaves_it_free(provider):
    async def use():
        ticks = 0
        task = asyncio.create_task(provider.generate_image("a cat", config=QUICK))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.001)  # sleep: the clock of the caller's loop
        await task
        return ticks

    assert asyncio.run(use()) > 10


def test_close_then_generate_starts_a_fresh_engine(home):
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home))
    first = make(provider)
    pid = provider.engine_pid
    provider.close()
    provider.close()
    assert not is_alive(pid)
    assert make(provider).data == first.data
    provider.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_switches_of_the_environment_reach_the_engine(home, monkeypatch):
    monkeypatch.setenv("SWIFTAI_FAST_MATH", "off")
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home))
    make(provider, config=QUICK.replace(steps=1, width=32, height=32, preview="off"))
    environment = Path(f"/proc/{provider.engine_pid}/environ").read_bytes().split(b"\0")
    assert b"SWIFTAI_FAST_MATH=off" in environment
    provider.close()


# --- machines that cannot ---


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("win32", "AMD64", "MLX is not installed"),
        ("win32", "x86", "does not exist for"),
        ("darwin", "x86_64", "does not exist for"),
        ("linux", "x86_64", "MLX is not installed"),
    ],
)
def test_a_machine_without_mlx_says_why(monkeypatch, system, machine, words):
    monkeypatch.setattr(platform_check, "find_child_module", lambda name: None)
    monkeypatch.setattr(platform_check.sys, "platform", system)
    monkeypatch.setattr(platform_check.platform, "machine", lambda: machine)
    provider = MLXImageProvider()
    assert provider.is_available is False
    for ask in (lambda: provider.plan("a cat"), lambda: make(provider)):
        with pytest.raises(UnsupportedPlatformError, match=words) as caught:
            ask()
        assert "cloud" in caught.value.hint
