"""One contract, every back end that needs no network."""

from __future__ import annotations

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from swiftai_nb.testing import FakeGenerator
from tests.contract_suite.image_generator import ImageGeneratorContract


class TestFakeGenerator(ImageGeneratorContract):
    @pytest.fixture
    def generator(self):
        return FakeGenerator(step_duration_s=0.005)


@pytest.fixture(scope="module")
def provider_in_a_process(tmp_path_factory):
    registry = DiffusionModelRegistry(home=tmp_path_factory.mktemp("home"))
    provider = MLXImageProvider("process", registry)
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def provider_in_a_thread(tmp_path_factory):
    registry = DiffusionModelRegistry(home=tmp_path_factory.mktemp("home"))
    provider = MLXImageProvider("thread", registry)
    yield provider
    provider.close()


class _OnThisMachine(ImageGeneratorContract):
    small = ImageGenerationConfig(model="emoji-mini", steps=2, seed=7)
    long = ImageGenerationConfig(model="emoji-mini", steps=1000, seed=7)


class TestMLXImageProviderInAProcess(_OnThisMachine):
    @pytest.fixture
    def generator(self, provider_in_a_process):
        return provider_in_a_process


class TestMLXImageProviderInAThread(_OnThisMachine):
    @pytest.fixture
    def generator(self, provider_in_a_thread):
        return provider_in_a_thread
