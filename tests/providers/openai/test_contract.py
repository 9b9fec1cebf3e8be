"""The contract of every generator, held against a server on this machine."""

from __future__ import annotations

import pytest

from swiftai_nb.providers.openai import OpenAIImagesProvider
from tests.contract_suite.image_generator import ImageGeneratorContract
from tests.providers.openai.images_server import ImagesServer


class TestOpenAIImagesProvider(ImageGeneratorContract):
    is_deterministic = False  # a server's seed may not be honored
    has_steps = False  # servers do not tell their steps

    @pytest.fixture
    def generator(self):
        server = ImagesServer()
        yield OpenAIImagesProvider(server.url)
        server.close()
