"""What servers, other programs and old records put in the way of a download."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

import swiftai_nb
from swiftai_nb.core.errors import (
    AIError,
    ChecksumMismatchError,
    DownloadFailedError,
    InvalidInputError,
    InvalidModelFilesError,
    NetworkError,
)
from swiftai_nb.downloads import download as download_module
from swiftai_nb.downloads.commands import ModelCommands
from swiftai_nb.downloads.deletion import delete_files
from swiftai_nb.downloads.verification import verify_files
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.hub_cache import locks_folder, repository_folder
from swiftai_nb.registry.model_info import ModelFile
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.downloads.conftest import (
    IMPATIENT,
    REPOSITORY,
    TEXT_ENCODER,
    UNET,
    as_nobody,
    assert_complete,
    make_downloader,
)
from tests.downloads.fake_hub import tiny_repository
from tests.downloads.repositories import oid_of

SLOW = replace(IMPATIENT, min_bytes_per_s=1000.0, slow_timeout_s=2.0)


def fetch(downloader, name=REPOSITORY):
    return asyncio.run(downloader.download(name))


def answer_with(hub, **changes):
    """The listing of the repository with some of its values replaced."""
    files = hub.repositories[REPOSITORY]
    siblings = [{"rfilename": p, "size": len(d), "blobId": oid_of(d)} for p, d in files.items()]
    data = {"id": REPOSITORY, "sha": hub.commit(REPOSITORY), "siblings": siblings, "gated": False, **changes}
    hub.routes["GET", f"/api/models/{REPOSITORY}"] = lambda handler, _match: handler.send_json(data)


@pytest.mark.parametrize("path", ["/tmp/evil.safetensors", "../../evil.safetensors"])
def test_a_listing_with_unsafe_names_leaves_no_record(hub, registry, downloader, path):
    hub.repositories["evil/lora"] = {path: b"x" * 2000}
    with pytest.raises(AIError, match="unsafe path"):
        asyncio.run(downloader.download_lora("evil/lora"))
    assert all(info.repository != "evil/lora" for info in registry.custom_models)
    assert not (registry.home / "manifests").exists()


@pytest.mark.parametrize("recorded", ["absolute", "climbing"])
def test_delete_and_verify_leave_alone_what_an_old_record_names_outside(registry, tmp_path, recorded):
    """Versions that recorded a listing before its names were checked left such records."""
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"my own file")
    commit = "a" * 40
    snapshot = repository_folder(registry.cache_dir, "evil/lora") / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "x.safetensors").write_bytes(b"x")
    path = str(mine) if recorded == "absolute" else os.path.relpath(mine, snapshot)
    entry = replace(
        registry.find(REPOSITORY),
        id="evil/lora",
        repository="evil/lora",
        kind="lora",
        files=(),
    )
    registry.add_custom(entry)
    files = [ModelFile("x.safetensors"), ModelFile(path, oid="0" * 64)]
    registry.user_config.record_manifest("evil/lora", commit, files)
    for named in ((), tuple(files)):
        registry.add_custom(replace(entry, files=named))
        for action in (verify_files, delete_files):
            with suppress(AIError):
                action(registry, "evil/lora", **({"repair": True} if action is verify_files else {}))
            assert mine.read_bytes() == b"my own file"


def test_delete_removes_a_link_out_of_the_cache_but_not_its_target(hub, registry, downloader, tmp_path):
    folder = fetch(downloader)
    elsewhere = tmp_path / "moved.safetensors"
    (folder / UNET).resolve().rename(elsewhere)
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(elsewhere)
    delete_files(registry, REPOSITORY)
    assert elsewhere.read_bytes() == hub.repositories[REPOSITORY][UNET]
    assert not (folder / UNET).is_symlink()


def test_a_ref_that_leads_out_of_the_cache_is_not_followed(registry, tmp_path):
    mine = tmp_path / "mine" / "unet"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("my own file")
    folder = repository_folder(registry.cache_dir, REPOSITORY)
    (folder / "snapshots").mkdir(parents=True)
    (folder / "refs").mkdir()
    files = (ModelFile("unet/config.json"),)
    registry.add_custom(replace(registry.find(REPOSITORY), files=files))
    for ref in (os.path.relpath(tmp_path / "mine", folder / "snapshots"), str(tmp_path / "mine"), "..", ""):
        (folder / "refs" / "main").write_text(ref)
        assert not registry.is_downloaded(REPOSITORY)
    (folder / "refs" / "main").write_bytes(bytes(range(128, 255)))
    (folder / "snapshots" / ("a" * 40)).symlink_to(tmp_path / "mine")
    delete_files(registry, REPOSITORY)
    assert (mine / "config.json").read_text() == "my own file"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha": None}, "commit None"),
        ({"sha": "../x"}, "commit"),
        ({"siblings": [{"rfilename": "model_index.json", "size": -5, "blobId": "0" * 40}]}, "size -5"),
        ({"siblings": [{"rfilename": "model_index.json", "size": 5, "blobId": "../../x"}]}, "checksum"),
        ({"siblings": [{"rfilename": "model_index.json", "size": "5", "blobId": "0" * 40}]}, "size '5'"),
    ],
)
def test_a_listing_with_unusable_values_is_refused_by_name(hub, registry, changes, message):
    registry.add_custom(replace(registry.find(REPOSITORY), files=(ModelFile("model_index.json"),)))
    answer_with(hub, **changes)
    with pytest.raises(InvalidModelFilesError, match=message):
        fetch(make_downloader(hub, registry))
    assert hub.gets() == []


def test_a_partial_file_that_is_a_link_is_never_followed(hub, registry, downloader, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"my own file")
    blobs = repository_folder(registry.cache_dir, REPOSITORY) / "blobs"
    blobs.mkdir(parents=True)
    oid = oid_of(hub.repositories[REPOSITORY][UNET])
    (blobs / f"{oid}.swiftai.incomplete").symlink_to(mine)
    assert_complete(hub, fetch(downloader))
    assert mine.read_bytes() == b"my own file"


def test_an_unlinked_blob_with_wrong_bytes_is_fetched_again(hub, registry, downloader):
    blobs = repository_folder(registry.cache_dir, REPOSITORY) / "blobs"
    blobs.mkdir(parents=True)
    data = hub.repositories[REPOSITORY][UNET]
    (blobs / oid_of(data)).write_bytes(bytes(len(data)))
    assert_complete(hub, fetch(downloader))


def test_partial_files_of_other_tools_stay(hub, registry, downloader):
    blobs = repository_folder(registry.cache_dir, REPOSITORY) / "blobs"
    blobs.mkdir(parents=True)
    theirs = blobs / f"{oid_of(hub.repositories[REPOSITORY][UNET])}.0123abcd.incomplete"
    theirs.write_bytes(b"theirs")
    assert_complete(hub, fetch(downloader))
    assert theirs.read_bytes() == b"theirs"


def test_an_entry_with_an_invalid_revision_is_refused(hub, registry):
    registry.add_custom(replace(registry.find(REPOSITORY), revision="../../x"))
    with pytest.raises(InvalidInputError, match="revision"):
        make_downloader(hub, registry).start(REPOSITORY)
    with pytest.raises(InvalidInputError, match="revision"):
        ModelCommands(registry=registry).run(["add", "org/x", "--variant", "sd-1.5", "--revision", "../x"])


@pytest.mark.parametrize("fault", ["drip", "drip_headers"])
def test_a_server_that_sends_single_bytes_is_given_up(hub, registry, fault):
    getattr(hub.faults, fault).add(UNET)
    started_s = time.monotonic()
    with pytest.raises(NetworkError, match="less than") as caught:
        fetch(make_downloader(hub, registry, options=SLOW))
    assert "resumes" in str(caught.value.hint)
    assert time.monotonic() - started_s < 60
    getattr(hub.faults, fault).clear()
    assert_complete(hub, fetch(make_downloader(hub, registry)))


def test_a_listing_that_arrives_in_single_bytes_is_given_up(hub, registry):
    answer = b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000
    hub.routes["GET", f"/api/models/{REPOSITORY}"] = lambda handler, _match: handler._drip(answer)
    with pytest.raises(NetworkError, match="less than"):
        fetch(make_downloader(hub, registry, options=SLOW))


def test_a_listing_without_end_is_refused(hub, registry):
    def send_forever(handler, _match):
        handler.send_response(200)
        handler.end_headers()
        while not hub.released.is_set():
            handler.wfile.write(b" " * 1_000_000)

    hub.routes["GET", f"/api/models/{REPOSITORY}"] = send_forever
    with pytest.raises(InvalidModelFilesError, match="longer than"):
        fetch(make_downloader(hub, registry))


def test_a_mirror_that_is_asked_for_every_file_is_not_too_slow(hub, registry):
    hub.faults.no_metadata = True
    hub.faults.answer_after_s = 0.3  # ten files: more in all than is allowed for one
    assert_complete(hub, fetch(make_downloader(hub, registry, options=SLOW)))


def test_a_file_that_does_not_answer_does_not_hide_the_error_of_another(hub, registry):
    hub.faults.hang.add(UNET)
    hub.faults.corrupt[TEXT_ENCODER] = 99
    started_s = time.monotonic()
    patient = replace(IMPATIENT, timeout_s=60.0)
    with pytest.raises(ChecksumMismatchError, match=TEXT_ENCODER):
        fetch(make_downloader(hub, registry, options=patient))
    assert time.monotonic() - started_s < 30


def test_unreadable_certificates_are_named(hub, downloader, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    with pytest.raises(InvalidInputError, match=r"SSL_CERT_FILE=/nonexistent\.pem"):
        fetch(downloader)


@pytest.mark.parametrize(
    "line", ['{"event": "progress", "nonsense": 1}', '{"event": "error"}', '{"event": "plan"}']
)
def test_an_invalid_event_ends_the_download_with_an_error(downloader, monkeypatch, line):
    command = [sys.executable, "-c", f"import sys; print({line!r}, flush=True); sys.stdin.read()"]
    monkeypatch.setattr(download_module, "python_command", lambda _module: command)
    with pytest.raises(DownloadFailedError):
        downloader.start(REPOSITORY).result(30)


def test_a_back_port_among_the_packages_does_not_replace_the_standard_library(hub, registry, tmp_path):
    """As `pip install pathlib` leaves it, beside this package in the same folder."""
    packages = tmp_path / "site-packages"
    source = Path(swiftai_nb.__file__).parent
    shutil.copytree(
        source, packages / "swiftai_nb", ignore=shutil.ignore_patterns("assets", "static", "*.pyc")
    )
    (packages / "pathlib.py").write_text("raise ImportError('an obsolete back port')\n")
    code = (
        f"import sys, pathlib; sys.path.insert(0, {str(packages)!r})\n"
        "from swiftai_nb.downloads.downloader import DiffusionModelDownloader\n"
        "from swiftai_nb.registry.registry import DiffusionModelRegistry\n"
        f"registry = DiffusionModelRegistry(home={str(registry.home)!r}, cache_dir={str(registry.cache_dir)!r})\n"
        f"downloader = DiffusionModelDownloader(registry=registry, endpoint={hub.url!r})\n"
        f"print(downloader.start({REPOSITORY!r}).result(120))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_complete(hub, Path(done.stdout.strip()))


@contextmanager
def read_only_cache(registry):
    """A cache with a killed download of another tool, on a file system that is mounted read-only."""
    folder = registry.home.parent / "read-only"
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not allow mounting a file system")
    try:
        oid = oid_of(tiny_repository()[UNET])
        blobs = repository_folder(folder, REPOSITORY) / "blobs"
        blobs.mkdir(parents=True)
        (blobs / f"{oid}.0123abcd.incomplete").write_bytes(b"theirs")
        locks_folder(folder, REPOSITORY).mkdir(parents=True)
        (locks_folder(folder, REPOSITORY) / f"{oid}.lock").touch()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True, check=True)
        yield DiffusionModelRegistry(home=registry.home, cache_dir=folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_a_read_only_cache_is_one_error_and_is_still_readable(hub, registry):
    with read_only_cache(registry) as read_only:
        with pytest.raises(DownloadFailedError, match="cannot write to the model cache"):
            make_downloader(hub, read_only).start(REPOSITORY).result(60)
        commands = ModelCommands(registry=read_only, endpoint=hub.url)
        for line in (["list"], ["info", REPOSITORY], ["clean"], ["clean", "--delete"]):
            commands.run(line)
        with pytest.raises(DownloadFailedError, match="cannot delete"):
            commands.run(["delete", REPOSITORY])


COMMIT = "a" * 40
PLACES = (
    *("home", "home/models.json", "home/manifests", "cache", "cache/.locks"),
    *(
        f"cache/.locks/models--org--tiny{rest}"
        for rest in ("", f"/{'d' * 64}.lock", "/swiftai-download.lock")
    ),
    *(f"cache/models--org--tiny{rest}" for rest in ("", "/blobs", "/refs", "/refs/main", "/snapshots")),
    *(f"cache/models--org--tiny/snapshots/{COMMIT}{rest}" for rest in ("", "/unet")),
    *(f"cache/models--org--tiny/blobs/{name}" for name in ("b" * 64, f"{'c' * 64}.swiftai.incomplete")),
)


def small_cache(folder: Path) -> DiffusionModelRegistry:
    """A partly downloaded model with partial files of two tools; everybody may do everything."""
    registry = DiffusionModelRegistry(home=folder / "home", cache_dir=folder / "cache")
    registry.add_repository(REPOSITORY, variant=DiffusionVariant.SD_15)
    repository = repository_folder(registry.cache_dir, REPOSITORY)
    locks = locks_folder(registry.cache_dir, REPOSITORY)
    unet = repository / "snapshots" / COMMIT / "unet"
    for path in (unet, repository / "blobs", repository / "refs", locks):
        path.mkdir(parents=True)
    for name in ("b" * 64, f"{'c' * 64}.swiftai.incomplete", f"{'d' * 64}.0123abcd.incomplete"):
        (repository / "blobs" / name).write_bytes(b"x" * 100)
    (unet / "config.json").symlink_to(f"../../../blobs/{'b' * 64}")
    (repository / "refs" / "main").write_text(COMMIT)
    for name in (f"{'d' * 64}.lock", "swiftai-download.lock"):
        (locks / name).touch()
    file = ModelFile("unet/config.json", 100, is_exact=True, oid="b" * 64)
    registry.user_config.record_manifest(REPOSITORY, COMMIT, [file])
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    return registry


@pytest.mark.parametrize("place", PLACES)
def test_what_another_user_may_not_read_or_write_is_an_answer_or_one_error(shared_folder, place):
    import importlib.readers  # noqa: F401 (Python's own folder may be closed to that user)

    import filelock  # noqa: F401

    small = [["list"], ["info"], ["verify"], ["clean"], ["clean", "--delete"], ["delete"]]
    for number, (mode, line) in enumerate((m, c) for m in (0o000, 0o444, 0o555) for c in small):
        folder = shared_folder / str(number)
        registry = small_cache(folder)
        commands = ModelCommands(registry=registry)
        commands.run(["list"])
        (folder / place).chmod(mode)
        needs_model = line[0] in ("info", "verify", "delete")
        with as_nobody(), suppress(AIError):
            commands.run([*line, REPOSITORY] if needs_model else line)


def test_the_old_spelling_of_quantize_still_works(registry):
    registry.add_repository("org/other", variant=DiffusionVariant.SD_15, id="mine")
    asked = []

    def quantize(_registry, model, **options):
        asked.append((model, options["bits"]))
        raise InvalidInputError("stop here")

    with pytest.raises(InvalidInputError, match="stop here"):
        ModelCommands(registry=registry, quantize=quantize).run(["quantise", "mine", "--bits", "4"])
    assert asked == [("mine", 4)]
