"""The tiny Stable Diffusions as folders, written once per session; tests that change one take a copy."""

import shutil

import pytest

from swiftai_nb.diffusion.cpu.workers import limit_numpy_threads
from tests.diffusion.sd_folders import write_folder


@pytest.fixture(scope="session", autouse=True)
def _one_numpy_thread():
    limit_numpy_threads(1)  # as in the engine's process


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folders") / "sd15", "sd15")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folders") / "sdxl", "sdxl")


@pytest.fixture
def sd15_copy(sd15_folder, tmp_path):
    return shutil.copytree(sd15_folder, tmp_path / "model")
