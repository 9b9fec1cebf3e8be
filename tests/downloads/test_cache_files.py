"""Paths, locks and checksums of the shared cache."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.downloads.cache_files import (
    check_path,
    check_revision,
    hold_lock,
    is_locked,
    matches_checksum,
    safe_join,
    try_lock,
    unlink_cached,
)
from swiftai_nb.downloads.worker.cache_writer import CacheWriter
from swiftai_nb.registry.model_info import ModelFile
from tests.downloads.conftest import as_nobody
from tests.waiting import wait_until

IS_POSIX = os.name == "posix"

HOLDER = """
import sys
from pathlib import Path
from swiftai_nb.downloads.cache_files import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "path",
    ["", ".", "/etc/passwd", "../x", "unet/../../x", "a\\..\\b", "C:/x", "C:\\x", "a\0b", "unet/.."],
)
def test_unsafe_paths_are_refused(tmp_path, path):
    with pytest.raises(InvalidModelFilesError, match="unsafe path"):
        check_path(path)
    with pytest.raises(InvalidModelFilesError, match="unsafe path"):
        safe_join(tmp_path, path)


def test_plain_paths_stay_as_they_are(tmp_path):
    assert safe_join(tmp_path, "unet/a b..c.json") == tmp_path / "unet" / "a b..c.json"


def test_a_linked_folder_does_not_lead_outside(tmp_path):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "unet").symlink_to(tmp_path)
    with pytest.raises(InvalidModelFilesError, match="leads outside"):
        safe_join(tmp_path / "snapshot", "unet/config.json")


@pytest.mark.parametrize("revision", ["", "../x", "/abs", "a/../b", "a\0b", "a\\b", "-x", "a b", "x" * 300])
def test_invalid_revisions_are_refused(revision):
    with pytest.raises(InvalidInputError, match="revision"):
        check_revision(revision)


@pytest.mark.parametrize("revision", [None, "main", "refs/pr/1", "v1.0", "a" * 40, "fp16"])
def test_valid_revisions_are_kept(revision):
    assert check_revision(revision) == revision


def test_checksums_are_sha256_or_git_sha1(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    sha256 = hashlib.sha256(b"data").hexdigest()
    git = hashlib.sha1(b"blob 4\0data").hexdigest()
    assert matches_checksum(path, ModelFile("x", oid=sha256)) == (True, 4)
    assert matches_checksum(path, ModelFile("x", 4, oid=git)) == (True, 4)
    assert matches_checksum(path, ModelFile("x", 5, oid=sha256)) == (False, 4)
    assert matches_checksum(path, ModelFile("x", oid="0" * 64)) == (False, 4)
    assert matches_checksum(path, ModelFile("x", oid="W/etag")) == (None, 0)


def test_deleting_a_link_keeps_what_lies_outside_the_cache(tmp_path):
    outside, cache = tmp_path / "mine.safetensors", tmp_path / "cache"
    outside.write_bytes(b"mine")
    cache.mkdir()
    (cache / "pointer").symlink_to(outside)
    unlink_cached(cache / "pointer", cache)
    assert outside.read_bytes() == b"mine"
    assert not (cache / "pointer").is_symlink()


def test_lock_keeps_other_threads_out_until_it_is_released(tmp_path):
    path = tmp_path / "deep" / "lock"
    assert not is_locked(path)
    waits = []
    entered = threading.Event()

    def enter():
        with hold_lock(path, on_wait=lambda: waits.append(1)):
            entered.set()

    with hold_lock(path):
        assert is_locked(path)
        assert try_lock(path) is None
        second = threading.Thread(target=enter)
        second.start()
        wait_until(lambda: len(waits) > 0)
        assert not entered.is_set()
    second.join(20)
    assert entered.is_set()
    assert not is_locked(path)


def test_lock_of_a_killed_process_is_free(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], **pipes) as holder:
        assert holder.stdout.readline().strip() == b"held"
        assert is_locked(tmp_path / "lock")
        holder.kill()
    assert not is_locked(tmp_path / "lock")


def test_huggingface_hub_takes_the_same_lock(tmp_path):
    from huggingface_hub.utils import WeakFileLock

    with WeakFileLock(tmp_path / "lock"):
        assert is_locked(tmp_path / "lock")


@pytest.mark.skipif(not IS_POSIX, reason="permissions of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_the_umask_decides_who_else_may_lock(tmp_path, umask, mode):
    previous = os.umask(umask)
    try:
        with hold_lock(tmp_path / "lock"):
            pass
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == mode


def test_the_lock_of_another_user_works_though_we_may_only_read_it(shared_folder):
    path = shared_folder / "lock"
    path.touch(mode=0o644)
    with as_nobody(), hold_lock(path):
        assert is_locked(path)
    with hold_lock(path), as_nobody():
        assert try_lock(path) is None


def test_a_lock_that_may_not_be_opened_counts_as_held(shared_folder):
    path = shared_folder / "lock"
    path.touch(mode=0o600)
    with as_nobody():
        assert is_locked(path)
        with pytest.raises(PermissionError):
            try_lock(path)


def test_a_partial_file_of_another_user_is_continued_as_ours(shared_folder, monkeypatch):
    writer = CacheWriter(shared_folder, "org/tiny", "a" * 40)
    file = ModelFile("x", 10, oid="b" * 64)
    path = writer.prepare_partial(file)
    path.write_bytes(b"theirs")
    path.chmod(0o644)
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o777)
    # The worker's real and effective users are the same; here only the effective one changes.
    monkeypatch.setattr(os, "access", functools.partial(os.access, effective_ids=True))
    with as_nobody(), writer.prepare_partial(file).open("ab") as stream:
        stream.write(b" and ours")
    assert path.read_bytes() == b"theirs and ours"
    assert path.stat().st_uid == 65534


@pytest.mark.skipif(not IS_POSIX, reason="flock of POSIX")
def test_file_system_without_locks_does_not_wait_forever(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    started_s = time.monotonic()
    with hold_lock(tmp_path / "lock"):
        assert time.monotonic() - started_s < 5
