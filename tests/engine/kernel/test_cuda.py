"""MLX for NVIDIA GPUs in a folder of its own, and what is found wrong with an installation."""

from __future__ import annotations

import io
import sys

import pytest

from swiftai_nb.core.errors import AIError, InvalidInputError, UnsupportedPlatformError
from swiftai_nb.core.machine import GIB, MIB
from swiftai_nb.engine.kernel import cuda, platform, report
from swiftai_nb.engine.kernel.process import engine_command


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """An empty environment without a driver."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    monkeypatch.setattr(platform, "installed_back_ends", lambda: {"mlx-cpu": "0.32.4"})
    platform._video_memory_bytes.cache_clear()
    return tmp_path


def put_in_place() -> None:
    (cuda.cuda_folder() / "mlx").mkdir(parents=True)


class TestTheEngine:
    def test_imports_from_the_folder_only_where_a_driver_is(self, monkeypatch):
        assert cuda.engine_packages() == []
        put_in_place()
        assert cuda.engine_packages() == []
        monkeypatch.setattr(cuda, "has_driver", lambda: True)
        assert cuda.engine_packages() == [str(cuda.cuda_folder())]
        assert platform.expected_device() == "cuda"

    def test_finds_it_before_the_environment_and_after_the_standard_library(self, monkeypatch):
        put_in_place()
        monkeypatch.setattr(cuda, "has_driver", lambda: True)
        path = engine_command()[-2].split("\n")
        mine = path.index(str(cuda.cuda_folder()))
        assert [entry for entry in path[:mine] if entry.endswith("-packages")] == []
        assert any(entry.endswith("-packages") for entry in path[mine:])

    def test_is_as_before_once_it_is_removed(self):
        put_in_place()
        out = io.StringIO()
        assert cuda.run(["remove"], out) == 0
        assert not cuda.is_installed()
        assert "not installed" in out.getvalue()
        cuda.remove()  # again


class TestInstalling:
    @pytest.fixture(autouse=True)
    def any_disk_is_large_enough(self, monkeypatch):
        monkeypatch.setattr(cuda, "_NEEDED_BYTES", 1)

    def test_a_full_disk_is_refused_before_anything_is_installed(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(cuda, "_NEEDED_BYTES", 10**18)
        with pytest.raises(InvalidInputError, match="free"):
            cuda.install("13", io.StringIO())
        assert list(cuda.cuda_folder().parent.iterdir()) == []

    def test_a_wrong_version_is_refused(self):
        with pytest.raises(InvalidInputError, match="no MLX for CUDA 11"):
            cuda.install("11", io.StringIO())

    def test_windows_has_no_cuda_12(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(UnsupportedPlatformError, match="Windows"):
            cuda.install("12", io.StringIO())

    def test_a_mac_is_told(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(UnsupportedPlatformError, match="Linux and Windows"):
            cuda.install("13", io.StringIO())

    @pytest.mark.parametrize(
        ("driver", "version"), [("550.54.14", "12"), ("580.65.06", "13"), ("595.1", "13")]
    )
    def test_the_driver_decides_the_version(self, monkeypatch, driver, version):
        monkeypatch.setattr(cuda, "driver_version", lambda: driver)
        monkeypatch.setattr(sys, "platform", "linux")
        assert cuda._supported_version() == version

    def test_without_a_driver_the_version_must_be_named(self, monkeypatch):
        monkeypatch.setattr(cuda, "driver_version", lambda: None)
        with pytest.raises(UnsupportedPlatformError, match="nvidia-smi"):
            cuda.install(None, io.StringIO())

    def test_a_failure_leaves_what_was_there(self, monkeypatch, tmp_path):
        put_in_place()
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(cuda, "_installer", lambda: [sys.executable, "-c", "import sys; sys.exit(1)"])
        with (
            (tmp_path / "log").open("w") as log,
            pytest.raises(InvalidInputError, match="installation failed"),
        ):
            cuda.install("13", log)
        assert cuda.is_installed()
        assert [path.name for path in cuda.cuda_folder().parent.iterdir()] == ["mlx-cuda"]

    def test_one_back_end_is_asked_for_of_the_version_that_the_environment_has(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sys, "platform", "linux")
        code = (
            "import pathlib, sys; target = pathlib.Path(sys.argv[sys.argv.index('--target') + 1]);"
            "(target / 'mlx').mkdir(parents=True); (target / 'words').write_text(' '.join(sys.argv[3:]))"
        )
        monkeypatch.setattr(cuda, "_installer", lambda: [sys.executable, "-c", code])
        with (tmp_path / "log").open("w") as log:
            cuda.install("13", log)
        words = (cuda.cuda_folder() / "words").read_text().split()
        assert [word.split("==")[0] for word in words] == ["mlx", "mlx-cuda-13"]
        assert len({word.split("==")[1] for word in words}) == 1


class TestTwoBackEnds:
    def test_are_found_with_the_commands_that_leave_one(self, monkeypatch):
        both = {"mlx-cpu": "0.32.4", "mlx-cuda-12": "0.32.4"}
        monkeypatch.setattr(platform, "installed_back_ends", lambda: both)
        monkeypatch.setattr(report, "installed_back_ends", lambda: both)
        ((topic, text, remedy),) = report.installation_findings()
        assert topic == "MLX"
        assert "mlx-cpu and mlx-cuda-12" in text
        assert remedy == (
            "pip uninstall -y mlx-cpu && pip install --force-reinstall --no-deps mlx-cuda-12==0.32.4"
        )

    @pytest.mark.parametrize("found", [{}, {"mlx-cpu": "1"}, {"mlx-metal": "1"}, {"mlx-cuda-13": "1"}])
    def test_one_is_no_finding(self, monkeypatch, found):
        monkeypatch.setattr(platform, "installed_back_ends", lambda: found)
        assert platform.back_end_conflict() is None

    def test_a_driver_that_is_not_used_is_a_finding(self, monkeypatch):
        monkeypatch.setattr(cuda, "has_driver", lambda: True)
        ((_, text, remedy),) = report.installation_findings()
        assert "computes on the CPU" in text
        assert remedy == "python -m swiftai_nb cuda install"


class TestMemory:
    @pytest.mark.parametrize(
        ("installed", "usable"), [(8, 5.33), (16, 10.67), (18, 12), (24, 16), (32, 21.33), (36, 27), (64, 48)]
    )
    def test_of_a_mac_is_what_metal_recommends(self, monkeypatch, installed, usable):
        monkeypatch.setattr(platform, "installed_memory_bytes", lambda: installed * GIB)
        found = platform.device_memory_bytes("metal")
        assert found is not None
        assert found / GIB == pytest.approx(usable, abs=0.01)

    @pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
    @pytest.mark.parametrize(("output", "size"), [("8021\n", 8021 * MIB), ("", None), ("[N/A]\n", None)])
    def test_of_an_nvidia_gpu_is_what_its_tool_reports(self, monkeypatch, tmp_path, output, size):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert platform.device_memory_bytes("cuda") == size

    def test_of_a_cpu_is_the_machines(self):
        assert platform.device_memory_bytes("cpu") is None


class TestTheReport:
    def test_names_no_folder_of_the_user(self, monkeypatch):
        monkeypatch.setattr(platform, "find_child_module", lambda _: None)
        out = io.StringIO()
        assert report.write_report(out) == 1
        assert "**not as expected**" in out.getvalue()
        text = "no module at /home/anna/env/lib/mlx/core.so here"
        assert report._without_folders(text) == "no module at …/core.so here"


def test_an_intel_python_on_apple_silicon_is_named(monkeypatch):
    class Uname:
        version = "Darwin Kernel Version 25.0.0: RELEASE_ARM64_T6000"

    monkeypatch.setattr(platform, "find_child_module", lambda _: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform.os, "uname", Uname)
    obstacle = platform.local_engine_obstacle()
    assert isinstance(obstacle, AIError)
    assert "Intel" in obstacle.message
    assert "arm64" in (obstacle.hint or "")


@pytest.mark.parametrize(
    ("system", "machine", "command"),
    [
        ("darwin", "arm64", "pip install mlx (macOS 14 or newer)"),
        ("linux", "x86_64", "pip install mlx mlx-cpu"),
        ("win32", "AMD64", "pip install mlx mlx-cpu"),
    ],
)
def test_a_missing_mlx_is_installed_by_the_systems_command(monkeypatch, system, machine, command):
    monkeypatch.setattr(platform, "find_child_module", lambda _: None)
    monkeypatch.setattr(platform, "is_translated", lambda: False)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform.platform, "machine", lambda: machine)
    obstacle = platform.local_engine_obstacle()
    assert obstacle is not None
    assert (obstacle.hint or "").startswith(command)
