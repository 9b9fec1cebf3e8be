from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from swiftai_nb.core.errors import (
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry import user_config
from swiftai_nb.registry.catalog import bundled_folder, find
from swiftai_nb.registry.hub_cache import DiskState, hub_cache_dir
from swiftai_nb.registry.model_info import DownloadedDiffusionModel
from swiftai_nb.registry.model_tables import make_table
from swiftai_nb.registry.registry import DiffusionModelRegistry
from swiftai_nb.registry.user_config import state_dir
from tests.model_files.files import write_weights

COMMIT = "a" * 40
TRAILING = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


@pytest.fixture
def registry(tmp_path):
    return DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "cache")


def put_in_cache(registry, name, *, commit=COMMIT, skip=(), when=None):
    """The files of a catalog entry, as any tool would have cached them: small, but all there."""
    info = find(name)
    folder = registry.cache_dir / f"models--{info.repository.replace('/', '--')}"
    for number, file in enumerate(f for f in info.files if f.path not in skip):
        size = file.size_bytes if file.is_exact else 10
        blob = folder / "blobs" / f"{number:040x}"
        pointer = folder / "snapshots" / commit / file.path
        for path in (blob, pointer):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(bytes(size))
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        if when is not None:
            os.utime(pointer, (when, when), follow_symlinks=False)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def test_nothing_is_downloaded_at_first(registry):
    assert registry.all_downloaded_models == []
    assert registry.total_downloaded_size == 0
    assert registry.formatted_total_size == "0 B"
    assert registry.is_downloaded("sdxl-turbo") is False
    assert registry.is_downloaded("never-heard-of") is False
    assert registry.local_path("sdxl-turbo") is None


def test_what_another_tool_downloaded_is_seen(registry):
    folder = put_in_cache(registry, "sdxl-turbo")
    assert registry.is_downloaded("mlx-community/sdxl-turbo")
    assert registry.local_path("sdxl-turbo") == folder
    model = registry.downloaded_model("sdxl-turbo")
    assert model.revision == COMMIT
    assert model.variant is DiffusionVariant.SDXL_TURBO
    assert model.size_bytes == 10 * sum(f.is_required for f in find("sdxl-turbo").files)


def test_missing_files_make_it_partial(registry):
    put_in_cache(registry, "sdxl-turbo", skip=["unet/config.json"])
    found = registry.on_disk("sdxl-turbo")
    assert found.state is DiskState.PARTIAL
    assert found.missing == ("unet/config.json",)
    assert not registry.is_downloaded("sdxl-turbo")


def test_broken_link_counts_as_missing(registry):
    folder = put_in_cache(registry, "taesdxl")
    (folder / "config.json").resolve().unlink()
    assert registry.on_disk("taesdxl").missing == ("config.json",)


def test_file_of_the_wrong_length_counts_as_missing(registry):
    folder = put_in_cache(registry, "taesdxl")
    (folder / "diffusion_pytorch_model.safetensors").resolve().write_bytes(b"short")
    assert registry.on_disk("taesdxl").missing == ("diffusion_pytorch_model.safetensors",)


def test_optional_files_may_be_absent(registry):
    optional = [f.path for f in find("sd-1.5").files if not f.is_required]
    assert optional
    put_in_cache(registry, "sd-1.5", skip=optional)
    assert registry.is_downloaded("sd-1.5")


def test_newest_comes_first(registry):
    put_in_cache(registry, "taesdxl", when=1_000_000_000)
    put_in_cache(registry, "sdxl-turbo", when=1_200_000_000)
    put_in_cache(registry, "sd-turbo", when=1_100_000_000)
    assert [m.id for m in registry.all_downloaded_models] == ["sdxl-turbo", "sd-turbo", "taesdxl"]


def test_entries_that_share_files_count_once(registry):
    put_in_cache(registry, "sd-1.5")
    ids = {m.id for m in registry.all_downloaded_models}
    assert ids == {"sd-1.5", "sd-1.5-8bit", "sd-1.5-4bit"}
    assert registry.total_downloaded_size == 10 * len(find("sd-1.5").files)


def test_the_revision_that_main_points_to_goes_first(registry):
    put_in_cache(registry, "taesdxl", commit="b" * 40)
    newest = put_in_cache(registry, "taesdxl", commit="c" * 40)
    assert registry.local_path("taesdxl") == newest


def test_an_older_complete_revision_is_better_than_a_newer_partial_one(registry):
    old = put_in_cache(registry, "taesdxl", commit="b" * 40)
    put_in_cache(registry, "taesdxl", commit="c" * 40, skip=["config.json"])
    assert registry.local_path("taesdxl") == old


def test_resolve_without_a_name_is_the_bundled_model(registry):
    resolved = registry.resolve()
    assert resolved.info.id == "emoji-mini"
    assert resolved.folder == bundled_folder(resolved.info)
    assert (resolved.folder / "model_index.json").is_file()


def test_default_model_is_used_only_while_it_is_here(registry):
    registry.default_model = "mlx-community/sdxl-turbo"
    assert registry.default_model == "sdxl-turbo"
    assert registry.resolve().info.id == "emoji-mini"
    put_in_cache(registry, "sdxl-turbo")
    assert registry.resolve().info.id == "sdxl-turbo"
    registry.default_model = None
    assert registry.resolve().info.id == "emoji-mini"


def test_alias_resolves_and_says_so(registry):
    put_in_cache(registry, "sdxl-turbo")
    resolved = registry.resolve("mlx-community/sdxl-turbo")
    assert resolved.note == "mlx-community/sdxl-turbo is an alias of sdxl-turbo (stabilityai/sdxl-turbo)"
    assert registry.resolve("sdxl-turbo").note is None


def test_model_that_is_not_here_says_size_license_and_how_to_get_it(registry):
    with pytest.raises(ModelNotDownloadedError) as caught:
        registry.resolve("sdxl-turbo")
    assert "6.9 GB" in caught.value.message
    assert "sai-nc-community" in caught.value.message
    assert "%imagine_models download sdxl-turbo" in str(caught.value.hint)


def test_time_is_told_once_a_speed_is_known(registry):
    registry.user_config.record_speed(10_000_000)
    with pytest.raises(ModelNotDownloadedError, match="about 12 min at the speed of your last download"):
        registry.resolve("sdxl-turbo")


def test_preview_decoder_is_no_model(registry):
    put_in_cache(registry, "taesdxl")
    with pytest.raises(InvalidInputError, match="preview"):
        registry.resolve("taesdxl")
    assert registry.resolve_info(registry.find("taesdxl")).folder.is_dir()


def make_folder(path: Path, unet: dict, *, index: str = "StableDiffusionPipeline") -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "unet" / "config.json").write_text(json.dumps(unet))
    (path / "model_index.json").write_text(json.dumps({"_class_name": index}))
    return path


def test_folder_path_resolves_by_its_own_files(registry, tmp_path):
    folder = make_folder(tmp_path / "mine", {"cross_attention_dim": 1024})
    resolved = registry.resolve(str(folder))
    assert resolved.info.variant is DiffusionVariant.SD_21
    assert resolved.folder == folder


@pytest.mark.parametrize(
    ("unet", "scheduler", "expected"),
    [
        ({"cross_attention_dim": 768}, {}, DiffusionVariant.SD_15),
        ({"addition_embed_type": "text_time"}, {}, DiffusionVariant.SDXL),
        ({"addition_embed_type": "text_time"}, TRAILING, DiffusionVariant.SDXL_TURBO),
        ({"addition_embed_type": "text_time"}, {**TRAILING, **ZERO_SNR}, DiffusionVariant.SDXL),
        (
            {"addition_embed_type": "text_time"},
            {**TRAILING, "_class_name": "EulerDiscreteScheduler"},
            DiffusionVariant.SDXL,
        ),
    ],
)
def test_family_is_read_from_the_files(registry, tmp_path, unet, scheduler, expected):
    folder = make_folder(tmp_path / "mine", unet)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    assert registry.add_folder(folder).variant is expected


def test_folder_of_another_kind_is_refused_with_a_reason(registry, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidModelFilesError, match=r"no model_index\.json"):
        registry.resolve(str(tmp_path / "empty"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    with pytest.raises(UnsupportedModelError, match="QwenImagePipeline"):
        registry.resolve(str(other))
    (other / "model_index.json").write_text("{broken")
    with pytest.raises(InvalidModelFilesError, match="cannot be read"):
        registry.resolve(str(other))


def test_own_folder_persists_and_can_be_forgotten(registry, tmp_path):
    folder = make_folder(tmp_path / "mine", {"cross_attention_dim": 768})
    registry.add_folder(folder, id="cats")
    again = DiffusionModelRegistry(home=registry.home, cache_dir=registry.cache_dir)
    assert again.resolve("cats").folder == folder
    assert "cats" in [m.id for m in again.available_models]
    assert again.is_downloaded("cats")
    again.remove_downloaded("cats")
    assert folder.is_dir()
    with pytest.raises(ModelNotFoundError):
        registry.find("cats")


def test_folder_that_vanished_is_not_here(registry, tmp_path):
    folder = make_folder(tmp_path / "mine", {"cross_attention_dim": 768})
    registry.add_folder(folder, id="cats")
    folder.rename(tmp_path / "moved")
    assert not registry.is_downloaded("cats")
    with pytest.raises(ModelNotDownloadedError, match="missing"):
        registry.resolve("cats")


def test_add_downloaded_registers_a_users_own_model(registry, tmp_path):
    folder = make_folder(tmp_path / "mine", {"cross_attention_dim": 768})
    model = DownloadedDiffusionModel(
        "cats", "My cats", DiffusionVariant.SD_15, folder, datetime.now(timezone.utc), 10
    )
    registry.add_downloaded(model)
    assert registry.downloaded_model("cats").name == "My cats"
    registry.add_downloaded(replace(model, id="sdxl-turbo"))
    assert not registry.is_downloaded("sdxl-turbo"), "of catalog models the cache is the only truth"


def test_builtin_names_cannot_be_taken(registry, tmp_path):
    folder = make_folder(tmp_path / "mine", {"cross_attention_dim": 768})
    for name in ("sdxl-turbo", "mlx-community/sdxl-turbo", "stabilityai/sdxl-turbo", "SD-1.5"):
        with pytest.raises(InvalidInputError, match="built-in"):
            registry.add_folder(folder, id=name)
    with pytest.raises(InvalidInputError, match="owner/name"):
        registry.add_repository("not a repository", variant=DiffusionVariant.SD_15)


def own_entry(name):
    return replace(find("sd-turbo"), id=name, aliases=(), is_custom=True)


def write_own(registry, *entries):
    registry.home.mkdir()
    content = {"version": 1, "entries": [info.to_dict() for info in entries]}
    (registry.home / "models.json").write_text(json.dumps(content))


def test_many_own_models_are_read_once_for_a_table(registry, monkeypatch):
    """400 of them took 34 s: every lookup read all entries."""
    write_own(registry, *(own_entry(f"mine-{number}") for number in range(50)))
    parsed = []
    parse = user_config.info_from_dict
    monkeypatch.setattr(user_config, "info_from_dict", lambda data: parsed.append(data) or parse(data))
    assert sum(row.info.is_custom for row in make_table(registry)) == 50
    assert len(parsed) == 50


def test_an_own_entry_of_a_catalog_id_takes_its_place_in_lists(registry):
    write_own(registry, own_entry("sdxl-turbo"))
    (listed,) = [info for info in registry.available_models if info.id == "sdxl-turbo"]
    assert listed == registry.find("sdxl-turbo")
    assert listed.is_custom


def test_folders_follow_the_environment_at_every_call(monkeypatch, tmp_path):
    shared = DiffusionModelRegistry.shared
    assert shared is DiffusionModelRegistry.shared
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "one"))
    assert shared.home == tmp_path / "one"
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "two"))
    assert shared.home == state_dir() == tmp_path / "two"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert shared.cache_dir == tmp_path / "cache"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"HF_HOME": "/x/y"},
        {"HF_HUB_CACHE": "/x/cache"},
        {"HUGGINGFACE_HUB_CACHE": "/x/old"},
        {"XDG_CACHE_HOME": "/x/xdg"},
        {"HF_HOME": "~/models", "XDG_CACHE_HOME": "/x/xdg"},
    ],
)
def test_cache_folder_is_where_huggingface_hub_looks(monkeypatch, settings):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert hub_cache_dir() == Path(theirs.stdout.strip()).resolve()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", "has no whole UNet"),
        ("model.ckpt", "pickle"),
        ("model.gguf", "corrupt"),
    ],
)
def test_a_single_file_given_as_a_model_answers_with_what_it_is(registry, tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    if name.endswith("safetensors"):
        write_weights(tmp_path / name, **{"conditioner.embedders.1.x": (4, 4)})
    else:
        (tmp_path / name).write_bytes(b"x")
    for given in (name, str(tmp_path / name)):
        with pytest.raises((InvalidModelFilesError, UnsupportedModelError), match=words):
            registry.resolve(given)
    with pytest.raises(ModelNotFoundError):
        registry.resolve(f"gone-{name}")


def test_a_folder_with_one_flux_transformer_file_is_a_model(registry, tmp_path):
    write_weights(tmp_path / "mine" / "flux1-dev.safetensors", **{
        "double_blocks.0.img_attn.qkv.weight": (8, 8), "guidance_in.in_layer.weight": (8, 8),
    })  # fmt: skip
    info = registry.add_folder(tmp_path / "mine")
    assert info.variant is DiffusionVariant.FLUX
    assert (info.default_steps, info.default_guidance_scale) == (28, 3.5)
    assert registry.resolve(str(tmp_path / "mine")).info.id == "mine"


def test_the_folder_of_a_known_model_goes_by_its_name(registry, tmp_path):
    assert registry.resolve(str(bundled_folder(find("emoji-mini")))).info.id == "emoji-mini"
    copy = tmp_path / "copy"
    shutil.copytree(bundled_folder(find("emoji-mini")), copy)
    assert registry.resolve(str(copy)).folder == copy.resolve()
    assert registry.resolve(str(copy)).info.id == "copy"


@pytest.mark.parametrize(
    "requires",
    [
        [["me/x0"]],
        [["me/x1"], ["me/x0"]],
        [[f"me/x{j}" for j in range(i + 1, 40)] for i in range(40)],
        [["nope"]],
    ],
    ids=["itself", "a circle", "one another", "unknown"],
)
def test_entries_that_require_entries_cost_no_time_and_no_error(registry, requires):
    common = {"variant": "sd-1.5", "description": "x", "license": "x", "kind": "model", "engine": "mlx"}
    entries = [
        {
            **common,
            "id": f"me/x{i}",
            "name": "x",
            "repository": "me/one",
            "files": [{"path": "a"}],
            "requires": names,
        }
        for i, names in enumerate(requires)
    ]
    registry.home.mkdir(parents=True, exist_ok=True)
    (registry.home / "models.json").write_text(json.dumps({"version": 1, "entries": entries}), "utf-8")
    snapshot = registry.cache_dir / "models--me--one" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "a").write_text("x", encoding="utf-8")
    assert len(registry.custom_models) == len(requires)
    assert "emoji-mini" in str(make_table(registry))
