"""The BLAS swap: real library, real patch, run in child processes so that this one stays as it was."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest

from swiftai_nb.diffusion import blas, elf

linux_wheel = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"),
    reason="the swap exists for MLX's Linux wheels",
)


def run(code: str) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


PRELUDE = """
import ctypes, mlx.core as mx, numpy as np
from swiftai_nb.diffusion import blas, elf
def pointer():
    return ctypes.c_uint64.from_address(elf.jump_slots("libmlx.so", ["cblas_sgemm"])["cblas_sgemm"]).value
"""


@linux_wheel
def test_products_move_to_openblas_and_stay_right():
    lines = run(
        PRELUDE
        + """
a = np.random.default_rng(1).standard_normal((301, 77)).astype(np.float32)
x = mx.array(a)
before = pointer()
status = blas.install_fast_blas()
print(status.active, "OpenBLAS" in status.library, pointer() != before)
print(np.allclose(np.asarray(x @ x.T), a.astype(np.float64) @ a.T, rtol=1e-5, atol=1e-4))
print(blas.install_fast_blas() == status)
"""
    )
    assert lines == ["True True True", "True", "True"]


@linux_wheel
def test_switching_off_restores_the_pointers():
    lines = run(
        PRELUDE
        + """
before = pointer()
blas.install_fast_blas()
status = blas.install_fast_blas(enabled=False)
print(status.active, pointer() == before, blas.threads())
print(blas.install_fast_blas().active, pointer() != before)
"""
    )
    assert lines == ["False True 1", "True True"]


@linux_wheel
def test_a_library_that_multiplies_wrongly_is_taken_out_again():
    lines = run(
        PRELUDE
        + """
before = pointer()
nothing = ctypes.CFUNCTYPE(None)(lambda: None)  # a product that writes nothing
real = blas._address
blas._address = lambda library, name: ctypes.cast(nothing, ctypes.c_void_p).value
status = blas.install_fast_blas()
print(status.active, pointer() == before, status.reason)
blas._address = real
print(blas.install_fast_blas().active)
"""
    )
    assert lines == ["False True the self-test differed from NumPy", "True"]


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        ("sys.platform = 'darwin'", "Linux"),
        ("platform.machine = lambda: 'riscv64'", "riscv64"),
        ("blas.importlib.util.find_spec = lambda name: None", "scipy-openblas32"),
        ("elf.jump_slots = lambda *a: {}", "own products"),
        ("blas.elf.jump_slots = lambda *a: (_ for _ in ()).throw(elf.ElfError('absent'))", "absent"),
        (
            "mx.set_default_device(mx.Device(mx.gpu)) if mx.is_available(mx.gpu) else "
            "setattr(mx, 'default_device', lambda: mx.Device(mx.gpu))",
            "GPU",
        ),
    ],
)
@linux_wheel
def test_an_obstacle_is_a_reason_not_an_error(setup, reason):
    lines = run(f"""
import platform, sys
import mlx.core as mx
from swiftai_nb.diffusion import blas, elf
{setup}
status = blas.install_fast_blas()
print(status.active, status.library, status.reason)
""")
    assert lines[0].startswith("False None")
    assert reason in lines[0]


@linux_wheel
def test_threads_of_both_pools_can_be_set():
    lines = run(
        PRELUDE
        + """
blas.install_fast_blas()
blas.set_threads(2)
print(blas.threads())
blas.set_threads(1)
print(blas.threads())
print(blas.limit_numpy_threads(1))
"""
    )
    assert lines[:2] == ["2", "1"]
    assert lines[2] in ("True", "False")


def test_thread_counts_do_nothing_before_installation():
    assert run("""
from swiftai_nb.diffusion import blas
blas.set_threads(5)
print(blas.threads())
""") == ["1"]


def test_usable_cpus_heeds_a_container_quota(monkeypatch):
    assert blas.usable_cpus() >= 1
    monkeypatch.setattr(blas, "_cgroup_cpus", lambda: 1)
    assert blas.usable_cpus() == 1


def test_a_library_that_is_not_loaded_is_an_elf_error():
    if not sys.platform.startswith("linux"):
        pytest.skip("ELF is Linux's")
    with pytest.raises(elf.ElfError, match="libnonsense"):
        elf.jump_slots("libnonsense.so", ["cblas_sgemm"])
