from __future__ import annotations

import asyncio
import io
import json
import threading

import pytest

from swiftai_nb.core.errors import (
    DownloadCancelledError,
    InvalidInputError,
    ModelNotDownloadedError,
    NetworkError,
)
from swiftai_nb.downloads import commands
from swiftai_nb.downloads.cache_files import hold_lock
from swiftai_nb.downloads.commands import ModelCommands
from swiftai_nb.downloads.verification import check_catalog, verify_files
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.hub_cache import locks_folder
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile
from tests.downloads.conftest import REPOSITORY, UNET, VAE, assert_complete, partial_files, partial_sizes
from tests.waiting import wait_until


@pytest.fixture
def verbs(registry, downloader, hub):
    return ModelCommands(registry=registry, downloader=downloader, endpoint=hub.url)


def show(verbs, line):
    return repr(verbs.run(line.split())[0])


def test_list_tells_what_is_here_and_what_it_costs(verbs, downloader):
    before = show(verbs, "list")
    assert "emoji-mini (default)" in before
    assert "sdxl-turbo" in before
    assert "6.9 GB" in before
    asyncio.run(downloader.download(REPOSITORY))
    line = next(line for line in show(verbs, "").splitlines() if line.startswith(REPOSITORY))
    assert " yes " in line


def test_table_is_html_in_a_notebook_and_escapes_what_users_named(verbs, registry):
    registry.add_repository("org/x", variant=DiffusionVariant.SD_15, id="<b>&me")
    html = verbs.run(["list"])[0]._repr_html_()
    assert html.startswith("<table>")
    assert "&lt;b&gt;&amp;me" in html
    assert "<b>&me" not in html
    assert 'href="https://huggingface.co/stabilityai/sdxl-turbo"' in html


def test_partial_download_shows_in_the_table_and_in_clean(verbs, hub, registry, downloader):
    hub.faults.hang_after[UNET] = 200_000
    download = downloader.start(REPOSITORY)
    wait_until(lambda: partial_sizes(registry.cache_dir) == [200_000])
    download.cancel()
    assert "partial:" in show(verbs, "list")
    assert "200 kB" in show(verbs, "clean")
    assert "the next download resumes it" in show(verbs, "clean")
    assert show(verbs, "clean --delete") == "200 kB freed"
    assert partial_files(registry.cache_dir) == []
    assert "nothing to clean" in show(verbs, "clean")


def test_orphans_of_other_tools_are_shown_and_removable_but_not_while_written(verbs, registry):
    blobs = registry.cache_dir / "models--org--other" / "blobs"
    blobs.mkdir(parents=True)
    orphan = blobs / ("e" * 64 + ".0123abcd.incomplete")
    orphan.write_bytes(bytes(5_000_000))
    with hold_lock(locks_folder(registry.cache_dir, "org/other") / ("e" * 64 + ".lock")):
        assert "nothing to clean" in show(verbs, "clean")
    shown = show(verbs, "clean")
    assert "5.0 MB" in shown
    assert "org/other" in shown
    assert "cannot be resumed" in shown
    show(verbs, "clean --delete")
    assert not orphan.exists()


def test_download_verb_downloads_once(verbs, hub, registry):
    assert "is ready" in show(verbs, f"download {REPOSITORY}")
    assert_complete(hub, registry.local_path(REPOSITORY))
    hub.requests.clear()
    assert "is already installed" in show(verbs, f"download {REPOSITORY}")
    assert hub.requests == []


def test_delete_verb_frees_and_names_what_shares_the_files(verbs, registry):
    show(verbs, f"download {REPOSITORY}")
    registry.add_repository(REPOSITORY, variant=DiffusionVariant.SD_15, id="twin")
    shown = show(verbs, f"delete {REPOSITORY}")
    assert "550 kB freed" in shown
    assert "twin" in shown
    with pytest.raises(InvalidInputError, match="part of the package"):
        verbs.run(["delete", "emoji-mini"])


def test_verify_finds_a_flipped_bit_and_repairs(verbs, hub, registry, downloader):
    folder = asyncio.run(downloader.download(REPOSITORY))
    result, is_good = verbs.run(["verify", REPOSITORY])
    assert is_good
    assert "10 files verified" in repr(result)
    target = (folder / VAE).resolve()
    data = bytearray(target.read_bytes())
    data[1000] ^= 1
    target.write_bytes(data)
    result, is_good = verbs.run(["verify", REPOSITORY])
    assert not is_good
    assert f"WRONG CHECKSUM: {VAE}" in repr(result)
    assert "--repair" in repr(result)
    verbs.run(["verify", REPOSITORY, "--repair"])
    assert not registry.is_downloaded(REPOSITORY)
    hub.requests.clear()
    assert_complete(hub, asyncio.run(downloader.download(REPOSITORY)))
    assert {r.file for r in hub.gets()} == {VAE}


def test_verify_needs_no_record_of_ours(hub, registry, downloader):
    """Files another tool fetched are checked against the cache's own names and listings."""
    asyncio.run(downloader.download(REPOSITORY))
    record = next((registry.home / "manifests").glob("*.json"))
    info = registry.find(REPOSITORY)
    from dataclasses import replace

    registry.add_custom(replace(info, files=(ModelFile(UNET), ModelFile("unet/config.json"))))
    record.unlink()
    result = verify_files(registry, REPOSITORY)
    assert result.good == ("unet/config.json", UNET)
    (registry.local_path(REPOSITORY) / UNET).resolve().write_bytes(b"x")
    assert verify_files(registry, REPOSITORY).wrong == (UNET,)


def test_verify_of_what_is_not_here_says_so(verbs):
    with pytest.raises(ModelNotDownloadedError):
        verbs.run(["verify", "sdxl-turbo"])
    with pytest.raises(InvalidInputError, match="nothing to verify"):
        verbs.run(["verify", "emoji-mini"])


def entry(hub, **changes):
    files = hub.repositories[REPOSITORY]
    wanted = (UNET, VAE, "unet/config.json")
    values = {
        "id": "tiny", "name": "Tiny", "variant": DiffusionVariant.SD_15, "description": "", "license": "mit",
        "repository": REPOSITORY, "size_bytes": sum(len(files[p]) for p in wanted),
        "files": tuple(ModelFile(p, len(files[p]), is_exact=True) for p in wanted),
    }  # fmt: skip
    return DiffusionModelInfo(**{**values, **changes})


def test_catalog_check_accepts_a_right_entry(hub):
    [check] = check_catalog([entry(hub)], endpoint=hub.url)
    assert check.is_good, str(check)
    assert check.commit == hub.commit(REPOSITORY)
    assert str(check).startswith("ok")


def test_catalog_check_finds_every_kind_of_difference(hub):
    right = entry(hub)
    off = (ModelFile(UNET, 5, is_exact=True),)
    rounded = (ModelFile(UNET, round(len(hub.repositories[REPOSITORY][UNET]) * 1.01)),)
    wrong = {
        ": 5 bytes in the table": entry(hub, files=off, size_bytes=0),
        "total": entry(hub, size_bytes=right.size_bytes * 2),
        "license": entry(hub, license="apache-2.0"),
        "gating": entry(hub, gated="accept the terms first"),
        "does not have unet/none.json": entry(hub, files=(ModelFile("unet/none.json"),)),
        "not on the Hub": entry(hub, repository="org/nope"),
    }
    for words, info in wrong.items():
        [check] = check_catalog([info], endpoint=hub.url)
        assert words in " ".join(check.differences), (words, check)
    [check] = check_catalog([entry(hub, files=rounded, size_bytes=0)], endpoint=hub.url)
    assert check.is_good, "a rounded size may be off by its rounding"


def test_verify_without_a_model_checks_the_whole_table(hub, registry, downloader):
    said = []
    verbs = ModelCommands(registry=registry, downloader=downloader, endpoint=hub.url, log=said.append)
    result, is_good = verbs.run(["verify"])
    assert not is_good, "none of the real repositories is on this server"
    assert any(line.startswith("DIFF  sdxl-turbo") for line in said)
    assert "differ" in repr(result)
    text, _ = verbs.run(["verify", "--json"])
    assert {"sdxl-turbo", "flux-schnell-4bit"} <= {c["model_id"] for c in json.loads(text)}


def test_own_models_are_added_made_default_and_removed(verbs, registry, tmp_path):
    folder = tmp_path / "mine"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text('{"cross_attention_dim": 768}')
    assert "is registered" in show(verbs, f"add {folder} --id cats")
    assert show(verbs, "default cats") == "default model: cats"
    assert registry.resolve().folder == folder
    assert "your folder" in show(verbs, "list")
    assert "no longer registered" in show(verbs, "remove cats")
    assert "emoji-mini" in show(verbs, "default none")
    assert "get its files with: download org/new" in show(verbs, "add org/new --variant sd-1.5")
    with pytest.raises(InvalidInputError, match="family"):
        verbs.run(["add", "org/other"])
    with pytest.raises(InvalidInputError, match="built-in"):
        verbs.run(["remove", "sdxl-turbo"])


def test_info_shows_license_access_and_what_was_not_checked(verbs):
    card, _ = verbs.run(["info", "mlx-community/sdxl-turbo"])
    words = repr(card)
    assert "non-commercial" in words
    assert "not checked against the live Hub" in words
    assert "<table>" in card._repr_html_()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dowload x", "did you mean 'download'"),
        ("frobnicate", "list, info"),
        ("info", "model"),
        ("download", "models"),
        ("clean --all", "--all"),
        ("add org/x --variant sd9", "sdxl-turbo"),
    ],
)
def test_misuse_is_one_error_that_helps(verbs, line, words):
    with pytest.raises(InvalidInputError) as caught:
        verbs.run(line.split())
    assert words in str(caught.value)


def test_help_names_every_verb(verbs):
    words = show(verbs, "help")
    assert show(verbs, "--help") == words
    assert all(f"  {verb}" in words for verb in commands.COMMANDS if verb != "help")


def test_module_entry_writes_the_result_and_an_exit_code(monkeypatch, tmp_path):
    out = io.StringIO()
    assert commands.run(["list"], out) == 0
    assert "emoji-mini" in out.getvalue()


def test_waiting_in_a_terminal_shows_progress_and_ends_with_the_download(hub, registry, downloader):
    hub.faults.throttle_bps = 300_000
    out = io.StringIO()
    folder = commands.wait_in_terminal(downloader.start(REPOSITORY), out)
    assert_complete(hub, folder)
    assert "%" in out.getvalue()
    assert "GB" in out.getvalue() or "kB" in out.getvalue()


def test_waiting_in_a_terminal_passes_errors_on(hub, registry, downloader):
    hub.faults.drop_after[UNET] = [0] * 30
    with pytest.raises(NetworkError):
        commands.wait_in_terminal(downloader.start(REPOSITORY), io.StringIO())


def test_delete_while_downloading_cancels_first(verbs, hub, registry, downloader):
    hub.faults.hang.add(UNET)
    download = downloader.start(REPOSITORY)
    wait_until(lambda: download.progress.completed_files >= 5)
    deleting = threading.Thread(target=lambda: verbs.run(["delete", REPOSITORY]))
    deleting.start()
    with pytest.raises(DownloadCancelledError):
        download.result(20)
    deleting.join(20)
    assert [p for p in registry.cache_dir.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
