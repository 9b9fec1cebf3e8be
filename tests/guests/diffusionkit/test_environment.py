"""DiffusionKit's environment: missing, broken, of a wrong version, and how it is made. Nothing is installed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swiftai_nb.__main__ import main
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    AIError,
    DownloadFailedError,
    InvalidInputError,
    ProviderUnavailableError,
    UnsupportedPlatformError,
)
from swiftai_nb.guests.diffusionkit import DiffusionKitImageProvider, commands
from swiftai_nb.guests.diffusionkit.environment import PYTHON_VARIABLE, environment_folder, interpreter_in
from swiftai_nb.guests.diffusionkit.probe import (
    PACKAGES,
    EnvironmentFacts,
    find_obstacle,
    inspect_this_interpreter,
)
from swiftai_nb.registry.registry import DiffusionModelRegistry

GOOD = {"executable": "/somewhere/python", "python": "3.11.7", "versions": {"diffusionkit": "0.5.2"}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def provider(home):
    made = DiffusionKitImageProvider(DiffusionModelRegistry(home=home))
    yield made
    made.close()


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]), encoding="utf-8")
    path.chmod(0o755)
    return path


def says(path: Path, facts: dict) -> Path:
    return script(path, f"echo '{json.dumps(facts)}'")


def refusal(provider: DiffusionKitImageProvider) -> AIError:
    assert provider.is_available is False
    with pytest.raises(ProviderUnavailableError) as caught:
        provider.plan("a cat", ImageGenerationConfig())
    assert "\n" not in caught.value.message
    assert "\n" not in str(caught.value.hint)
    return caught.value


def test_missing_environment_says_how_to_get_one(provider):
    error = refusal(provider)
    assert "not installed" in error.message
    assert "python -m swiftai_nb diffusionkit install" in error.hint


def test_half_an_environment_is_made_again(provider, home):
    environment_folder(home).mkdir(parents=True)
    error = refusal(provider)
    assert "incomplete" in error.message
    assert "--again" in error.hint


def test_variable_that_names_nothing_is_quoted(provider, monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, "/no/such/python")
    error = refusal(provider)
    assert "/no/such/python" in error.message
    assert "unset it" in error.hint


def test_variable_is_read_at_use(provider, monkeypatch, tmp_path):
    assert not provider.is_available
    monkeypatch.setenv(PYTHON_VARIABLE, str(says(tmp_path / "python", GOOD)))
    assert provider.is_available
    monkeypatch.delenv(PYTHON_VARIABLE)
    assert not provider.is_available


def test_variable_may_name_an_environments_folder(provider, monkeypatch, tmp_path):
    says(interpreter_in(tmp_path / "env"), GOOD)
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "env"))
    provider.check_available()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({**GOOD, "versions": {"diffusionkit": "0.4.1"}}, "DiffusionKit 0.4.1 is in"),
        ({**GOOD, "python": "3.8.18"}, "needs Python 3.10 or newer"),
        ({**GOOD, "missing": ["transformers", "regex"]}, "lacks transformers, regex"),
    ],
)
def test_environment_of_another_version_is_named(provider, monkeypatch, tmp_path, facts, words):
    monkeypatch.setenv(PYTHON_VARIABLE, str(says(tmp_path / "python", facts)))
    error = refusal(provider)
    assert words in error.message
    assert "diffusionkit install" in error.hint


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("echo 'libpython not found' >&2", "exit 127"), "libpython not found"),
        (("echo hello",), "not a usable Python"),
        (("kill -9 $$",), "not a usable Python"),
    ],
)
def test_broken_interpreter_is_one_line(provider, monkeypatch, tmp_path, lines, words):
    monkeypatch.setenv(PYTHON_VARIABLE, str(script(tmp_path / "python", *lines)))
    error = refusal(provider)
    assert "broken" in error.message
    assert words in error.message


def test_file_that_cannot_be_run_is_one_line(provider, monkeypatch, tmp_path):
    (tmp_path / "python").write_text("not a program", encoding="utf-8")
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "python"))
    assert "cannot be run" in refusal(provider).message


def test_mended_environment_is_asked_again(provider, monkeypatch, tmp_path):
    path = says(tmp_path / "python", {**GOOD, "versions": {}})
    monkeypatch.setenv(PYTHON_VARIABLE, str(path))
    assert not provider.is_available
    says(path, GOOD)
    assert provider.is_available


def test_this_interpreter_answers_for_itself(provider, monkeypatch):
    """The real question to a real interpreter: the one of the tests, which has no DiffusionKit."""
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    missing = inspect_this_interpreter().missing
    assert "diffusionkit" in missing, "DiffusionKit must never enter the environment of the package itself"
    assert ", ".join(missing) in refusal(provider).message


def test_facts_name_every_package_the_worker_imports():
    assert find_obstacle(EnvironmentFacts("python", "3.12.1", {"diffusionkit": "0.5.2"})) is None
    assert {"mlx", "diffusionkit", "transformers", "regex", "beartype"} <= set(PACKAGES)


def test_modules_of_the_worker_need_nothing_but_the_standard_library_before_it_is_checked():
    """What runs before a remedy can be told must not import what may be missing."""
    code = (
        "import sys\n"
        "for name in ('numpy', 'PIL', 'mlx', 'tokenizers', 'huggingface_hub'): sys.modules[name] = None\n"
        "import swiftai_nb.guests.diffusionkit.probe, swiftai_nb.guests.diffusionkit.checkpoint\n"
        "import swiftai_nb.engine.child.serve, swiftai_nb.engine.channel, swiftai_nb.engine.child.start\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dry_run_says_folder_size_and_commands_and_does_nothing(home):
    out = io.StringIO()
    assert commands.run(["install", "--dry-run"], out, home=home) == 0
    said = out.getvalue()
    assert str(environment_folder(home)) in said
    assert "400 MB on disk, 100 MB to download" in said
    assert "--no-deps diffusionkit==0.5.2" in said
    assert not home.exists()


def test_install_asks_first_and_no_is_the_default(home):
    for answer in ("", "\n", "n\n", "perhaps\n"):
        out = io.StringIO()
        assert commands.run(["install"], out, home=home, answers=io.StringIO(answer)) == 1
        assert "Install it? [y/N]" in out.getvalue()
        assert "Nothing was installed" in out.getvalue()
    assert not home.exists()


def test_mac_gets_the_mlx_that_diffusionkit_pins_and_a_python_that_has_it(monkeypatch, tmp_path):
    monkeypatch.setattr(commands.sys, "platform", "darwin")
    machine = os.uname()
    monkeypatch.setattr(commands.os, "uname", lambda: type(machine)((*machine[:4], "arm64")))
    monkeypatch.setattr(commands.sys, "version_info", (3, 14, 0))
    old = script(tmp_path / "python3.12", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = commands.plan_installation(tmp_path / "env")
    assert plan.python == old
    assert "mlx==0.17.3" in plan.commands[1]
    old.unlink()
    with pytest.raises(UnsupportedPlatformError, match=r"3\.10 to 3\.12"):
        commands.plan_installation(tmp_path / "env")


def test_system_without_mlx_is_told_of_the_cloud(monkeypatch, tmp_path):
    monkeypatch.setattr(commands.sys, "platform", "win32")
    with pytest.raises(UnsupportedPlatformError, match="MLX") as caught:
        commands.plan_installation(tmp_path)
    assert "--engine cloud" in caught.value.hint


def test_failed_install_leaves_nothing_and_repeats_the_last_line(home, tmp_path):
    python = script(tmp_path / "python3", "echo starting", "echo 'no network today' >&2", "exit 1")
    plan = commands.plan_installation(environment_folder(home), python=str(python))
    said = []
    with pytest.raises(DownloadFailedError, match="no network today"):
        commands.install(plan, said.append)
    assert "starting" in said
    assert not environment_folder(home).exists()


def test_environment_that_is_there_is_not_made_again_unasked(home):
    environment_folder(home).mkdir(parents=True)
    plan = commands.plan_installation(environment_folder(home), python=sys.executable)
    with pytest.raises(InvalidInputError, match="exists already") as caught:
        commands.install(plan, lambda line: None)
    assert "--again" in caught.value.hint


def test_verbs_of_the_terminal(home, capsys):
    assert main(["diffusionkit"]) == 0
    assert "install" in capsys.readouterr().out
    assert main(["diffusionkit", "check"]) == 1
    assert "not installed" in capsys.readouterr().err
    assert main(["diffusionkit", "bake"]) == 1
    assert main(["diffusionkit", "remove"]) == 1
    environment_folder(home).mkdir(parents=True)
    assert main(["diffusionkit", "remove", "--yes"]) == 0
    assert not environment_folder(home).exists()
