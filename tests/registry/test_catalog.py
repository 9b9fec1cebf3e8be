from __future__ import annotations

import subprocess
import sys

import pytest

from swiftai_nb.core.errors import ModelNotFoundError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.model_files.listing import select_files
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog import CATALOG, find
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile, info_from_dict
from swiftai_nb.registry.registry import DiffusionModelRegistry

DOWNLOADABLE = [info for info in CATALOG if info.is_downloadable]


def names_of(info: DiffusionModelInfo) -> set[str]:
    return {info.id.casefold(), *(a.casefold() for a in info.aliases)}


def test_ids_and_aliases_are_unique():
    seen: dict[str, str] = {}
    for info in CATALOG:
        for name in names_of(info):
            assert name not in seen, f"{name} names {seen[name]} and {info.id}"
            seen[name] = info.id


@pytest.mark.parametrize("info", DOWNLOADABLE, ids=lambda i: i.id)
def test_every_entry_says_size_license_memory_and_files(info):
    assert info.license != "unknown"
    assert info.license_summary
    assert info.min_memory_bytes > 0
    assert info.default_steps >= 1
    assert info.unconfirmed, "nothing here was checked against the live Hub: the entry must say so"
    known = sum(f.size_bytes or 0 for f in info.files)
    assert known == pytest.approx(info.size_bytes, rel=0.02)
    assert len({f.path for f in info.files}) == len(info.files)
    assert all(f.path.rsplit(".", 1)[-1] in {"json", "txt", "safetensors", "model"} for f in info.files)
    assert all("*" not in f.path for f in info.files)


@pytest.mark.parametrize(
    "info",
    [i for i in DOWNLOADABLE if i.kind not in ("part", "upscaler") and len(i.files) > 1],
    ids=lambda i: i.id,
)
def test_our_own_file_choice_agrees_with_the_table(info):
    """What an unlisted repository would get by its layout is what the table asks for by name."""
    listing = [f.path for f in info.files]
    clutter = [
        "README.md",
        "whole_model.safetensors",
        "unet/model.onnx",
        "safety_checker/model.fp16.safetensors",
    ]
    assert set(select_files(listing + clutter)) == set(listing)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlx-community/sdxl-turbo", "sdxl-turbo"),
        ("mlx-community/stable-diffusion-v1-5-4bit", "sd-1.5-4bit"),
        ("mlx-community/flux-schnell-4bit", "flux-schnell-4bit"),
        ("stabilityai/sdxl-turbo", "sdxl-turbo"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd-1.5"),
        ("SDXL-Turbo", "sdxl-turbo"),
        (" emoji-mini ", "emoji-mini"),
    ],
)
def test_names_of_the_proposal_and_repositories_are_found(name, expected):
    assert find(name).id == expected


def test_unknown_name_says_what_was_meant_and_what_there_is():
    with pytest.raises(ModelNotFoundError) as caught:
        find("sdxl-trubo")
    assert "did you mean 'sdxl-turbo'" in str(caught.value.hint)
    assert "flux-schnell-4bit" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["sdxl", "SD-2.1", "flux-dev", "Tongyi-MAI/Z-Image-Turbo"])
def test_a_family_or_a_repository_is_not_mistaken_for_a_similar_name(name):
    with pytest.raises(ModelNotFoundError) as caught:
        find(name)
    hint = str(caught.value.hint)
    assert "tae" not in hint.partition("known models")[0]
    assert ("--variant" in hint) is (name != "flux-dev")
    assert "sdxl-turbo" in hint


def test_preview_decoders_exist_for_every_model_that_names_one():
    decoders = {i.id for i in CATALOG if i.kind == "preview-decoder"}
    assert decoders == {"taesd", "taesdxl", "taef1", "taef2"}
    assert {i.preview_decoder for i in CATALOG if i.preview_decoder} <= decoders


@pytest.mark.parametrize("name", ["sd3-medium", "sd3.5-large", "sd3.5-large-4bit"])
def test_stable_diffusion_3_says_its_engine_its_gate_its_license_and_the_parts_it_needs(name):
    info = find(name)
    assert info.engine == "diffusionkit"
    assert "accept its license" in info.gated
    assert "stabilityai" in info.license
    parts = [find(part) for part in info.requires]
    assert {part.kind for part in parts} == {"part"}
    paths = {f.path for entry in (info, *parts) for f in entry.files}
    assert {"t5/t5xxl.safetensors", "clip_g/model.fp16.safetensors", "spiece.model"} <= paths


def test_our_own_engine_runs_everything_else_flux_included():
    others = [i for i in CATALOG if i.variant is not DiffusionVariant.SD_3]
    assert {i.engine for i in others} == {"mlx"}
    assert "flux-schnell-4bit" in {i.id for i in others}


def test_bundled_model_is_there_and_says_its_own_defaults():
    info = find("emoji-mini")
    assert info.bundled
    assert info.default_resolution == (256, 256)
    assert info.display_scale == 1
    assert info.size_bytes > 1_000_000


def test_class_attribute_lists_the_catalog_and_variants_have_their_defaults():
    models = {m.id: m for m in DiffusionModelRegistry.available_models}
    assert models["sdxl-turbo"].size_gb == 6.94
    assert models["sdxl-turbo"].formatted_size == "6.9 GB"
    assert models["sdxl-turbo"].hugging_face_url == "https://huggingface.co/stabilityai/sdxl-turbo"
    assert DiffusionVariant("sdxl-turbo").default_steps == 4
    assert DiffusionVariant.SDXL_TURBO.default_guidance_scale == 0.0
    assert DiffusionVariant.SDXL_TURBO.default_resolution == (512, 512)
    assert DiffusionVariant.SD_15.display_name == "Stable Diffusion 1.5"
    assert DiffusionVariant.FLUX.size_gb == 9.8


def test_only_settings_that_are_not_the_familys_are_an_entrys_own():
    assert find("sdxl-turbo").own_settings == find("sd-1.5").own_settings == {}
    assert find("lcm-dreamshaper").own_settings == {
        "steps": 4, "guidance_scale": 8.0, "width": 768, "height": 768,
    }  # fmt: skip
    assert find("sd-turbo").own_settings == {"steps": 4, "guidance_scale": 0.0}


def test_entries_survive_json():
    for info in CATALOG:
        assert info_from_dict({**info.to_dict(), "from_the_future": 1}) == info


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (9_793_292, "9.8 MB"), (44_000_000, "44.0 MB"),
     (999_900_000, "1.0 GB"), (167_000_000, "167 MB"), (9_850_000_000, "9.9 GB")],
)  # fmt: skip
def test_sizes_in_words(size, words):
    assert format_bytes(size) == words


def test_looking_at_the_catalog_imports_nothing_heavy():
    code = (
        "import sys; from swiftai_nb.registry.registry import DiffusionModelRegistry as R\n"
        "R.shared.resolve(None); R.shared.all_downloaded_models\n"
        "import swiftai_nb.downloads.downloader, swiftai_nb.downloads.commands\n"
        "heavy = {'mlx', 'huggingface_hub', 'httpx', 'httpx2', 'IPython'}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_entry_with_exact_size_is_marked_so():
    weights = find("taesdxl").files[1]
    assert weights == ModelFile("diffusion_pytorch_model.safetensors", 9_793_292, is_exact=True)
