"""Options of the cloud on a cell: where they go, what is refused, and what is said before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from IPython.core.error import UsageError
from PIL import Image

from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.jobs.cluster import close_generators
from swiftai_nb.notebook.session import get_session
from swiftai_nb.providers.batch import default_attempts
from swiftai_nb.providers.huggingface import HuggingFaceProvider
from tests.providers.huggingface.cloud_server import CloudServer
from tests.providers.openai.images_server import ImagesServer

REFUSALS = (UsageError, InvalidInputError)


@pytest.fixture
def cloud() -> Iterator[CloudServer]:
    server = CloudServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def imagine(shell: Any, line: str) -> Any:
    return shell.run_line_magic("imagine", line)


def test_base_url_alone_chooses_the_engine(shell: Any, images_server: ImagesServer) -> None:
    shell.run_line_magic("config", "Imagine.engine = 'auto'")
    pictures = imagine(
        shell, f"a fox --quiet --seed 3 --base-url {images_server.origin} --extra quality=high"
    )
    assert pictures[0].recipe.engine == "openai"
    assert images_server.posts[0].fields["quality"] == "high"
    assert images_server.posts[0].fields["seed"] == 3


def test_the_trait_sets_the_server(shell: Any, images_server: ImagesServer) -> None:
    shell.run_line_magic("config", f"Imagine.base_url = '{images_server.url}'")
    shell.run_line_magic("config", "Imagine.provider = 'fal-ai'")
    imagine(shell, "a fox --quiet --engine openai")
    assert len(images_server.posts) == 1


def test_a_variable_goes_to_edits(shell: Any, images_server: ImagesServer) -> None:
    shell.user_ns["fox"] = Image.new("RGB", (64, 64))
    pictures = imagine(shell, f"a hat --quiet --with fox --engine openai --base-url {images_server.origin}")
    assert images_server.posts[0].path == "/v1/images/edits"
    assert pictures[0].recipe.references_sha256


def test_bill_to_comes_from_the_line_or_the_trait(shell: Any, cloud: CloudServer) -> None:
    get_session().add_generator("huggingface", HuggingFaceProvider(base_url=f"{cloud.url}/mine"))
    shell.run_line_magic("config", "Imagine.bill_to = 'acme'")
    imagine(shell, "a fox --quiet --engine cloud")
    imagine(shell, "a fox --quiet --engine cloud --bill-to other")
    payers = [{k.lower(): v for k, v in headers.items()}["x-hf-bill-to"] for _, _, headers in cloud.requests]
    assert payers == ["acme", "other"]
    report = str(shell.run_line_magic("imagine_doctor", ""))
    assert "openai" in report


def test_an_endpoint_of_ones_own(shell: Any, cloud: CloudServer) -> None:
    imagine(shell, f"a fox --quiet --engine cloud --base-url {cloud.url}/mine")
    assert [path for path, _, _ in cloud.requests] == ["/mine"]


@pytest.mark.parametrize(
    "options", ["--base-url http://127.0.0.1:1", "--bill-to acme", "--extra quality=high"]
)
def test_options_of_the_cloud_are_refused_elsewhere(shell: Any, options: str) -> None:
    with pytest.raises(REFUSALS, match="has no effect with --engine fake"):
        imagine(shell, f"a fox --engine fake {options}")


def test_a_provider_is_refused_for_a_server(shell: Any) -> None:
    with pytest.raises(REFUSALS, match="--provider has no effect"):
        imagine(shell, "a fox --engine openai -p fal-ai --base-url http://127.0.0.1:1")


def test_dry_run_says_what_goes_where_and_sends_nothing(shell: Any, images_server: ImagesServer) -> None:
    shell.user_ns["fox"] = Image.new("RGB", (64, 64))
    plan = imagine(
        shell, f"a hat --dry-run --with fox --engine openai --base-url {images_server.origin} -n 2"
    )
    assert plan["sent"] == f"the prompt and 1 reference picture, to {images_server.origin[7:]} (this machine)"
    assert images_server.sent == []
    plan = imagine(shell, "a hat --dry-run --engine openai --base-url https://images.example -n 2")
    assert plan["sent"] == "the prompt, to images.example"
    assert "each picture is one request" in plan["cost"]


def test_auto_does_not_send_pictures_to_a_cloud_that_nobody_chose(
    shell: Any, cloud: CloudServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.run_line_magic("config", "Imagine.engine = 'auto'")
    session = get_session()
    session.add_generator("huggingface", HuggingFaceProvider(base_url=f"{cloud.url}/mine"))
    monkeypatch.setattr(type(session.generator("mlx")), "is_available", property(lambda self: False))
    shell.user_ns["fox"] = Image.new("RGB", (64, 64))
    with pytest.raises(AIError, match="only to a service that you choose"):
        imagine(shell, "a hat --quiet --with fox")
    assert cloud.requests == []
    imagine(shell, "a hat --quiet")
    imagine(shell, "a hat --quiet --with fox --engine cloud")
    assert len(cloud.requests) == 2


def test_a_recipe_from_elsewhere_chooses_no_server(
    shell: Any, images_server: ImagesServer, tmp_path: Any
) -> None:
    imagine(
        shell, f"a fox --quiet --engine openai --base-url {images_server.origin} --extra webhook=x --out fox"
    )
    path = shell.user_ns["fox"].save(tmp_path / "fox.png")
    again = imagine(shell, f"--quiet --from {path}")
    assert again[0].recipe.engine == "fake"
    assert len(images_server.posts) == 1


def test_workers_of_a_cluster_ask_the_same_server(shell: Any, images_server: ImagesServer) -> None:
    with ThreadPoolExecutor(2) as workers:
        shell.user_ns["workers"] = workers
        options = f"--engine openai --base-url {images_server.origin} --bill-to acme --extra quality=low"
        pictures = imagine(shell, f"a fox --quiet -n 2 --seed 1 --executor workers {options}")
    close_generators()
    assert [picture.seed for picture in pictures] == [1, 2]
    assert [post.headers["openai-organization"] for post in images_server.posts] == ["acme"] * 2
    assert [post.fields["quality"] for post in images_server.posts] == ["low"] * 2


@pytest.mark.parametrize(
    ("provider", "attempts"), [("huggingface", 1), ("openai", 1), ("mlx", 3), ("gone", 3)]
)
def test_a_picture_that_may_be_billed_is_tried_once_on_a_cluster(provider: str, attempts: int) -> None:
    assert default_attempts(provider) == attempts
