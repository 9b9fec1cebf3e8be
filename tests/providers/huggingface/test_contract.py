"""The contract of every generator, held by the cloud provider against a server on this machine."""

from __future__ import annotations

import pytest

from swiftai_nb.providers.huggingface import HuggingFaceProvider
from tests.contract_suite.image_generator import ImageGeneratorContract
from tests.providers.huggingface.cloud_server import CloudServer
from tests.providers.huggingface.test_provider import cloud

__all__ = ["cloud"]


class TestHuggingFaceProvider(ImageGeneratorContract):
    is_deterministic = False  # a cloud seed may not be honored
    has_steps = False  # providers do not tell their steps

    @pytest.fixture
    def generator(self):
        server = CloudServer()
        server.hang_at_steps = 1000
        yield HuggingFaceProvider(base_url=f"{server.url}/mine")
        server.close()


class TestHuggingFaceProviderThroughTheHub(ImageGeneratorContract):
    is_deterministic = False
    has_steps = False

    @pytest.fixture
    def generator(self, cloud):
        cloud.hang_at_steps = 1000
        return HuggingFaceProvider("hf_token", model="acme/painter")
