"""stable-diffusion.cpp's own server draws through the provider, where its program `sd-server` is on this machine.

It is built from https://github.com/leejet/stable-diffusion.cpp (also in the source package of
stable-diffusion-cpp-python) with `cmake --build build --target sd-server`; put it on PATH, or name it in SD_SERVER.
The model is the smallest that it knows, with zeros for weights: a file of one gigabyte that takes no room.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swiftai_nb.core import errors
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.providers.openai import OpenAIImagesProvider
from tests.providers.huggingface.cloud_server import picture
from tests.waiting import wait_until

PROGRAM = os.environ.get("SD_SERVER") or shutil.which("sd-server")
TENSORS = Path(__file__).parent / "tiny_sd_tensors.json.gz"

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="sd-server of stable-diffusion.cpp is not on this machine"),
    pytest.mark.timeout(600),
]


def write_zeros(path: Path) -> None:
    header, end = {}, 0
    for name, shape in json.loads(gzip.decompress(TENSORS.read_bytes())).items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


class Server:
    def __init__(self, folder: Path) -> None:
        write_zeros(folder / "tiny.safetensors")
        self.log = folder / "log.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [str(PROGRAM), "-m", str(folder / "tiny.safetensors"), "-t", "2"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--listen-ip", "127.0.0.1", "--listen-port", str(self.port)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def is_listening(self) -> bool:
        assert self.process.poll() is None, self.said
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sd-server"))
    try:
        wait_until(server.is_listening, timeout_s=120, message="the server's port")
        yield server
    finally:
        server.close()


def generate(server: Server, prompt: str, **settings: object) -> GeneratedImage:
    config = ImageGenerationConfig(**{"width": 64, "height": 64, "steps": 1, **settings})  # type: ignore[arg-type]
    return asyncio.run(OpenAIImagesProvider(server.url).generate_image(prompt, config=config))


def test_it_lists_its_model(server: Server) -> None:
    assert asyncio.run(OpenAIImagesProvider(server.url).models()) == ["sd-cpp-local"]


def test_it_draws_with_our_size_steps_seed_and_sampler(server: Server) -> None:
    image = generate(server, "a fox", steps=3, seed=41, scheduler="euler", width=128)
    assert (image.width, image.height) == (128, 64)
    assert image.recipe is not None
    assert (image.recipe.engine, image.recipe.model, image.recipe.seed) == ("openai", "sd-cpp-local", 41)
    said = server.said
    assert "seed 41" in said
    assert "3/3" in said
    assert "Euler method" in said


def test_it_changes_a_picture_under_a_mask(server: Server) -> None:
    start = picture(size=(64, 64))
    image = generate(server, "a hat", image=start, mask=start, strength=0.9, seed=42)
    assert (image.width, image.height) == (64, 64)
    assert "seed 42" in server.said


def test_what_it_refuses_is_one_error(server: Server) -> None:
    with pytest.raises(errors.AIError) as caught:
        generate(server, "a fox", extra_body={"output_format": "nothing"})
    assert caught.value.hint


def test_cancelling_leaves_it_usable(server: Server) -> None:
    async def scenario() -> None:
        maker, started = OpenAIImagesProvider(server.url), len(server.said)
        config = ImageGenerationConfig(width=64, height=64, steps=4)
        task = asyncio.create_task(maker.generate_image("a fox", config=config))
        await asyncio.to_thread(
            lambda: wait_until(lambda: len(server.said) > started, timeout_s=60, message="the request")
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert generate(server, "a fox", seed=43).seed == 43
