"""Which compiled CPU kernels a machine gets, and in what precision it computes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from swiftai_nb.core import cpu_kernels
from swiftai_nb.core.cpu_kernels import TARGETS

ZEN_4, SKYLAKE, HASWELL, OLD = (
    {"vendor_id": vendor, "flags": " ".join(flags)}
    for vendor, flags in (
        ("AuthenticAMD", TARGETS[0].cpu_flags),
        ("GenuineIntel", TARGETS[1].cpu_flags),
        ("GenuineIntel", TARGETS[2].cpu_flags),
        ("GenuineIntel", ("sse2",)),
    )
)
COOPER_LAKE = {**ZEN_4, "vendor_id": "GenuineIntel"}
SAPPHIRE_RAPIDS = {"vendor_id": "GenuineIntel", "flags": " ".join(TARGETS[-1].cpu_flags)}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine another one, with all libraries built."""
    monkeypatch.delenv(cpu_kernels.OFF_VARIABLE, raising=False)
    monkeypatch.setattr(cpu_kernels, "FOLDER", tmp_path)
    for target in TARGETS:
        target.path.touch()

    def become(facts, *, architecture="x86_64", system="linux"):
        monkeypatch.setattr(cpu_kernels, "_cpu_facts", lambda: facts)
        monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: architecture)
        monkeypatch.setattr(cpu_kernels.sys, "platform", system)

    return become


@pytest.mark.parametrize(
    ("facts", "name", "automatic", "bfloat16"),
    [
        (ZEN_4, "avx512_bf16", "bfloat16", "bfloat16"),
        (COOPER_LAKE, "avx512_bf16", "float32", "bfloat16"),
        (SAPPHIRE_RAPIDS, "avx512_bf16", "float32", "bfloat16"),
        (SKYLAKE, "avx512", "float32", "float32"),
        (HASWELL, "avx2", "float32", "float32"),
    ],
)
def test_each_processor_gets_its_library_and_its_precision(machine, facts, name, automatic, bfloat16):
    machine(facts)
    target = cpu_kernels.choose_library().target
    assert target is not None
    assert target.name == name
    found = [cpu_kernels.resolve_precision(p) for p in (None, "auto", "float32", "bfloat16")]
    assert found == [automatic, automatic, "float32", bfloat16]


def test_amx_is_used_where_it_is_asked_for_and_there(machine, monkeypatch):
    for facts, name, precision in (
        (SAPPHIRE_RAPIDS, "amx", "bfloat16"),
        (COOPER_LAKE, "avx512_bf16", "float32"),
    ):
        machine(facts)
        monkeypatch.setenv("SWIFTAI_CPU_KERNELS", "amx")
        target = cpu_kernels.choose_library().target
        assert target is not None
        assert (target.name, cpu_kernels.resolve_precision("auto")) == (name, precision)


def test_other_machines_compute_in_float32_with_numpy(machine):
    for facts, options in ((OLD, {}), (ZEN_4, {"system": "darwin"}), (ZEN_4, {"architecture": "riscv64"})):
        machine(facts, **options)
        assert cpu_kernels.choose_library().target is None
        assert cpu_kernels.resolve_precision("bfloat16") == "float32"


def test_arm_has_its_own(machine):
    machine({}, architecture="aarch64")
    target = cpu_kernels.choose_library().target
    assert target is not None
    assert target.name == "neon"


def test_kernels_that_are_turned_off_or_not_compiled_say_so(machine, monkeypatch, tmp_path):
    machine(ZEN_4)
    monkeypatch.setenv("SWIFTAI_CPU_KERNELS", "off")
    assert cpu_kernels.choose_library().reason == "turned off by SWIFTAI_CPU_KERNELS"
    monkeypatch.delenv("SWIFTAI_CPU_KERNELS")
    for path in tmp_path.iterdir():
        path.unlink()
    assert "C compiler" in cpu_kernels.choose_library().remedy


@pytest.mark.parametrize(
    ("compiler", "message"), [("no-such-compiler", "no C compiler"), ("false", "false failed")]
)
def test_a_compiler_that_is_not_there_or_fails_is_one_error(compiler, message, tmp_path, monkeypatch):
    if not cpu_kernels.fitting_targets() or shutil.which("false") is None:
        pytest.skip("no kernels for this machine")
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(cpu_kernels.BuildError, match=message):
        cpu_kernels.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_knows_no_newer_instructions_builds_the_rest(tmp_path, monkeypatch):
    if not cpu_kernels.fitting_targets() or shutil.which("cc") is None:
        pytest.skip("no kernels for this machine, or no C compiler")
    script = tmp_path / "old-cc"
    script.write_text(
        '#!/bin/sh\ncase "$*" in *avx512*) exit 1;; esac\nfor last; do :; done\ntouch "$(echo "$*" | sed "s/.*-o //; s/ .*//")"\n'
    )
    script.chmod(0o755)
    assert subprocess.run([script, "-mavx512f", "-o", "x"], check=False).returncode == 1
    monkeypatch.setenv("CC", str(script))
    folder = tmp_path / "built"
    folder.mkdir()
    built = cpu_kernels.build(folder)
    assert built
    assert not any("avx512" in path.name for path in built)
