"""Models in one file: found, registered, and completed from what is installed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, ModelNotDownloadedError
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog import find
from swiftai_nb.registry.file_parts import download_name
from swiftai_nb.registry.hub_cache import repository_folder
from swiftai_nb.registry.model_tables import make_table
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.flux2_folders import bfl_transformer, flux2_weights
from tests.diffusion.flux_folders import save
from tests.diffusion.sd_folders import write_folder, write_safetensors
from tests.diffusion.single_files import checkpoint_tensors, flux_tensors, write_checkpoint
from tests.diffusion.z_image_folders import comfy_transformer, z_image_weights


@pytest.fixture
def registry(tmp_path):
    return DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "hub")


def install(registry, name, source):
    """Puts the files of an entry into the cache, from a folder that has them."""
    info = find(name)
    snapshot = repository_folder(registry.cache_dir, info.repository) / "snapshots" / ("a" * 40)
    for file in info.files:
        target = snapshot / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / file.path).is_file():
            shutil.copy(source / file.path, target)
    return snapshot


def test_a_file_is_completed_by_the_users_own_model(registry, tmp_path):
    own = registry.add_folder(write_folder(tmp_path / "mine", "sd15"))
    path = write_checkpoint(tmp_path / "tune.safetensors", "sd15")
    resolved = registry.resolve(str(path))
    assert resolved.folder == path
    assert resolved.base == tmp_path / "mine"
    assert resolved.note is None
    assert resolved.info.variant is own.variant


def test_a_file_is_registered_under_its_stem_and_found_by_both_names(registry, tmp_path):
    registry.add_folder(write_folder(tmp_path / "mine", "sdxl"))
    path = write_checkpoint(tmp_path / "Tune v2.safetensors", "sdxl")
    info = registry.add_folder(path)
    assert (info.id, info.variant) == ("Tune v2", DiffusionVariant.SDXL)
    assert info.size_bytes == path.stat().st_size
    assert registry.is_downloaded("Tune v2")
    for name in ("Tune v2", str(path)):
        resolved = registry.resolve(name)
        assert (resolved.info.id, resolved.folder, resolved.base) == ("Tune v2", path, tmp_path / "mine")
    installed = {row[0]: row[2] for row in make_table(registry).rows()}
    assert (installed["Tune v2"], installed["mine"]) == ("your file", "your folder")
    assert registry.downloaded_model("Tune v2").size_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("model", "part", "size"),
    [("sd15", "sd-1.5-tokenizer", "1.6 MB"), ("sdxl", "sdxl-tokenizer", "3.2 MB")],
)
def test_what_a_file_lacks_is_named_with_its_size(registry, tmp_path, model, part, size):
    path = write_checkpoint(tmp_path / "tune.safetensors", model)
    with pytest.raises(
        ModelNotDownloadedError, match=rf"tune.safetensors lacks tokenizer.*{part} .*{size}"
    ) as e:
        registry.resolve(str(path))
    assert e.value.hint == f"%imagine_models download {part}"
    assert len(e.value.message.splitlines()) == 1
    assert download_name(registry, str(path)) == part


def test_a_network_alone_needs_a_whole_model(registry, tmp_path):
    arrays = {n: v for n, v in checkpoint_tensors("sd15").items() if n.startswith("model.")}
    write_safetensors(tmp_path / "unet.safetensors", arrays)
    with pytest.raises(ModelNotDownloadedError, match=r"lacks text_encoder, vae, tokenizer.*sd-1\.5 does"):
        registry.resolve(str(tmp_path / "unet.safetensors"))


@pytest.mark.parametrize(("is_whole", "part"), [(True, "flux-tokenizer"), (False, "flux-text-encoders")])
def test_flux_names_the_smallest_part(registry, tmp_path, is_whole, part):
    save(tmp_path / "flux.safetensors", flux_tensors(is_whole=is_whole))
    with pytest.raises(ModelNotDownloadedError, match=f"{part} does"):
        registry.resolve(str(tmp_path / "flux.safetensors"))


def test_an_installed_tokenizer_is_enough(registry, tmp_path):
    folder = write_folder(tmp_path / "source", "sd15")
    snapshot = install(registry, "sd-1.5-tokenizer", folder)
    path = write_checkpoint(tmp_path / "tune.safetensors", "sd15")
    assert registry.resolve(str(path)).base == snapshot


def test_a_model_with_another_vocabulary_is_not_used(registry, tmp_path):
    registry.add_folder(find_bundled(), id="small")
    path = write_checkpoint(tmp_path / "tune.safetensors", "sd15")
    with pytest.raises(ModelNotDownloadedError, match="lacks tokenizer"):
        registry.resolve(str(path))


def find_bundled():
    from swiftai_nb.registry.catalog import bundled_folder

    return bundled_folder(find("emoji-mini"))


def test_files_that_are_no_model_are_one_line(registry, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(InvalidModelFilesError, match="pickle"):
        registry.resolve(str(tmp_path / "x.ckpt"))
    write_safetensors(tmp_path / "lora.safetensors", {"a.lora_down.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(InvalidInputError, match="is a LoRA"):
        registry.add_folder(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("z", "z-image-text-encoder"),
        ("klein", "flux.2-klein-text-encoder"),
        ("klein 9B", "flux.2-klein-9b-text-encoder"),
    ],
)
def test_a_transformer_alone_names_the_text_encoder_it_needs(registry, tmp_path, model, part):
    if model == "z":
        arrays = comfy_transformer(z_image_weights()["transformer"])
    else:
        arrays = bfl_transformer(flux2_weights()["transformer"])
    if model == "klein 9B":
        arrays["txt_in.weight"] = np.zeros((1, 3 * 4096), np.float32)
    path = tmp_path / "tune.safetensors"
    save(path, arrays)
    with pytest.raises(ModelNotDownloadedError, match=rf"lacks text_encoder, vae, tokenizer.*{part} does"):
        registry.resolve(str(path))
    assert download_name(registry, str(path)) == part
