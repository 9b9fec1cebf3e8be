"""The cloud provider against a real server that speaks the real routes and misbehaves on purpose."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swiftai_nb.core import errors
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationCancelledError
from swiftai_nb.core.generator import ImageGenerator
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.providers.huggingface import HuggingFaceProvider
from swiftai_nb.providers.huggingface.hub import DEFAULT_MODEL, MODELS, is_hugging_face, provider_names
from tests.providers.huggingface.cloud_server import Answer, CloudServer, picture
from tests.waiting import wait_until, wait_until_async

TOKEN = "hf_secret0123456789"
MODEL = "acme/painter"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CloudServer]:
    from huggingface_hub import constants
    from huggingface_hub.inference._providers import PROVIDERS, _common, hf_inference

    server = CloudServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "INFERENCE_PROXY_TEMPLATE", server.url + "/{provider}")
    for task in ("text-to-image", "image-to-image"):
        monkeypatch.setattr(PROVIDERS["hf-inference"][task], "base_url", server.url + "/hf-inference")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    caches = [_common._fetch_inference_provider_mapping]
    caches += [f for f in vars(hf_inference).values() if hasattr(f, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield server
    for cache in caches:
        cache.cache_clear()
    server.close()


def provider(**options: object) -> HuggingFaceProvider:
    return HuggingFaceProvider(**{"token": TOKEN, "model": MODEL, "retry_wait_s": 0, **options})  # type: ignore[arg-type]


def generate(maker: HuggingFaceProvider, prompt: str = "a fox", **options: object) -> GeneratedImage:
    return asyncio.run(maker.generate_image(prompt, **options))  # type: ignore[arg-type]


def test_conforms_to_the_protocol() -> None:
    assert isinstance(provider(), ImageGenerator)


def test_picture_of_hf_inference_comes_with_the_whole_request(cloud: CloudServer) -> None:
    config = ImageGenerationConfig(
        width=64, height=48, steps=4, guidance_scale=0.0, seed=0, scheduler="Euler"
    )
    image = generate(provider(), negative_prompt="blur", config=config)
    path, body, headers = cloud.requests[0]
    assert path == f"/hf-inference/models/{MODEL}"
    assert body == {
        "inputs": "a fox",
        "parameters": {
            "negative_prompt": "blur", "height": 48, "width": 64, "num_inference_steps": 4,
            "guidance_scale": 0.0, "scheduler": "Euler", "seed": 0,
        },
    }  # fmt: skip
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == f"Bearer {TOKEN}"
    assert (image.width, image.height) == (64, 48)
    assert image.recipe is not None
    assert (image.recipe.provider, image.recipe.model, image.recipe.seed) == ("hf-inference", MODEL, 0)
    assert any("seed may not" in note for note in image.recipe.notes)


def test_json_answer_of_another_provider(cloud: CloudServer) -> None:
    image = generate(provider(provider="together"))
    assert cloud.requests[0][0] == "/together/v1/images/generations"
    assert image.recipe is not None
    assert image.recipe.provider == "together"
    assert Recipe.from_image(image.pil if image.recipe is None else image) == image.recipe


def test_seed_is_concrete_and_recorded_when_none_was_given(cloud: CloudServer) -> None:
    image = generate(provider())
    assert cloud.requests[0][1]["parameters"]["seed"] == image.seed


def test_one_side_alone_means_a_square(cloud: CloudServer) -> None:
    generate(provider(), config=ImageGenerationConfig(width=64))
    assert cloud.requests[0][1]["parameters"]["height"] == 64


def test_model_of_the_call_wins(cloud: CloudServer) -> None:
    generate(provider(), model="acme/other")
    generate(provider(), config=ImageGenerationConfig(model="acme/third"))
    assert [r[0].rsplit("/", 1)[1] for r in cloud.requests] == ["other", "third"]


def test_own_endpoint_needs_no_hub_and_no_token(cloud: CloudServer) -> None:
    maker = HuggingFaceProvider(base_url=f"{cloud.url}/mine")
    assert maker.is_available
    assert generate(maker).recipe.provider == "endpoint"  # type: ignore[union-attr]
    assert cloud.requests[0][0] == "/mine"


def test_bill_to_is_sent(cloud: CloudServer) -> None:
    generate(provider(bill_to="acme"))
    assert {k.lower(): v for k, v in cloud.requests[0][2].items()}["x-hf-bill-to"] == "acme"


def test_stages_are_honest_and_stepless(cloud: CloudServer) -> None:
    seen: list[ImageGenerationProgress] = []
    cloud.default = Answer(delay_s=0.7)
    generate(provider(), on_progress=seen.append)
    stages = [p.stage for p in seen]
    assert stages[0] is GenerationStage.LOOKING_UP_PROVIDER
    assert stages.count(GenerationStage.WAITING) >= 2
    assert GenerationStage.RECEIVING in stages
    assert all(p.total_steps == 0 and p.fraction_complete == 0.0 for p in seen)
    assert [p.elapsed_time for p in seen] == sorted(p.elapsed_time for p in seen)


def test_second_call_estimates_from_the_first(cloud: CloudServer) -> None:
    seen: list[ImageGenerationProgress] = []
    cloud.default = Answer(delay_s=0.2)
    maker = provider()
    generate(maker)
    generate(maker, on_progress=seen.append)
    assert any(p.estimated_time_remaining for p in seen)


STATUS_ROWS = [
    (400, errors.InvalidInputError),
    (401, errors.AuthenticationError),
    (402, errors.QuotaExceededError),
    (403, errors.AuthenticationError),
    (404, errors.ModelNotFoundError),
    (410, errors.ModelNotFoundError),
    (422, errors.InvalidInputError),
    (429, errors.RateLimitedError),
    (500, errors.ServerError),
    (503, errors.ServerError),
    (504, errors.ServerError),
    (418, errors.ServerError),
]


@pytest.mark.parametrize(("status", "kind"), STATUS_ROWS)
@pytest.mark.parametrize("name", ["hf-inference", "together"])
def test_every_status_is_one_error_with_a_remedy(
    cloud: CloudServer, status: int, kind: type[AIError], name: str
) -> None:
    cloud.default = Answer(status, body=f'{{"error": "bad thing with {TOKEN}"}}'.encode())
    with pytest.raises(AIError) as caught:
        generate(provider(provider=name))
    error = caught.value
    assert type(error) is kind
    assert error.hint
    assert "\n" not in error.message
    assert TOKEN not in f"{error} {error.__cause__!r}"
    assert "bad thing" in error.message


def test_no_token_says_where_to_get_one(cloud: CloudServer, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = HuggingFaceProvider(model=MODEL)
    assert not maker.is_available
    with pytest.raises(errors.AuthenticationError) as caught:
        generate(maker)
    assert "settings/tokens" in (caught.value.hint or "")
    assert cloud.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert maker.is_available


def test_rate_limit_is_waited_out_within_a_bound(cloud: CloudServer) -> None:
    cloud.answers = [Answer(429, headers={"Retry-After": "0"}), Answer(503), Answer()]
    generate(provider(retry_wait_s=5))
    assert len(cloud.requests) == 3
    cloud.answers = [Answer(429, headers={"Retry-After": "3600"})]
    with pytest.raises(errors.RateLimitedError) as caught:
        generate(provider(retry_wait_s=5))
    assert caught.value.retry_after_s == 3600


@pytest.mark.parametrize(
    ("answer", "kind", "name"),
    [
        (
            Answer(body=b"<html>hello</html>", content_type="text/html"),
            errors.GenerationFailedError,
            "hf-inference",
        ),
        (Answer(body=b'{"error": "soon"}'), errors.GenerationFailedError, "hf-inference"),
        (Answer(body=b"not json"), errors.GenerationFailedError, "together"),
        (Answer(body=b'{"data": []}'), errors.GenerationFailedError, "together"),
        (Answer(body=b'{"other": 1}'), errors.GenerationFailedError, "together"),
        (Answer(body=picture()[:60], content_type="image/png"), errors.AIError, "hf-inference"),
        (Answer(reset=True), errors.NetworkError, "hf-inference"),
    ],
)
def test_answer_that_is_no_picture(
    cloud: CloudServer, answer: Answer, kind: type[AIError], name: str
) -> None:
    cloud.default = answer
    with pytest.raises(kind) as caught:
        generate(provider(provider=name))
    assert caught.value.hint


@pytest.mark.parametrize(
    "mapping", [{}, None, {"unheard-of": {"providerId": "x", "status": "live", "task": "text-to-image"}}]
)
def test_model_that_nobody_serves_names_one_that_is(
    cloud: CloudServer, mapping: dict[str, object] | None
) -> None:
    cloud.mapping = mapping
    with pytest.raises(AIError) as caught:
        generate(provider())
    assert "FLUX.1-schnell" in (caught.value.hint or "")


def test_unknown_model(cloud: CloudServer) -> None:
    cloud.hub_status = 404
    with pytest.raises(errors.ModelNotFoundError) as caught:
        generate(provider())
    assert MODEL in caught.value.message


def test_provider_that_does_not_serve_the_model_names_those_that_do(cloud: CloudServer) -> None:
    with pytest.raises(errors.ProviderUnavailableError) as caught:
        generate(provider(provider="nscale"))
    assert "hf-inference" in (caught.value.hint or "")


def test_unknown_provider_lists_the_known(cloud: CloudServer) -> None:
    with pytest.raises(errors.ProviderUnavailableError) as caught:
        generate(provider(provider="nobody"))
    assert "together" in (caught.value.hint or "")


def test_refused_connection(cloud: CloudServer) -> None:
    with pytest.raises(errors.NetworkError):
        generate(HuggingFaceProvider(base_url="http://127.0.0.1:9/x"))


def test_offline_mode(cloud: CloudServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(errors.ProviderUnavailableError, match="offline"):
        generate(provider())
    assert cloud.requests == []


def test_timeout_is_an_error_not_a_wait_for_ever(cloud: CloudServer) -> None:
    cloud.default = Answer(hang=True)
    with pytest.raises(errors.GenerationTimeoutError):
        generate(provider(timeout_s=0.3))


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt_sends_nothing(cloud: CloudServer, prompt: str) -> None:
    with pytest.raises(errors.InvalidInputError):
        generate(provider(), prompt)
    assert cloud.requests == []


def test_cancelling_the_task_closes_the_connection_and_leaves_the_provider_usable(cloud: CloudServer) -> None:
    maker = provider()
    chance = random.Random(3)

    async def scenario() -> None:
        for _ in range(10):
            cloud.answers = [Answer(hang=True)]
            task = asyncio.create_task(maker.generate_image("a fox"))
            await asyncio.to_thread(cloud.waiting.acquire, timeout=30)
            await asyncio.sleep(chance.random() * 0.1)  # sleep: a random moment of the call
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        cloud.answers = []
        await maker.generate_image("a fox")

    asyncio.run(scenario())
    wait_until(lambda: len(cloud.closed_at) == 10, message="the end of every connection")


def test_cancel_generation_ends_every_running_call(cloud: CloudServer) -> None:
    cloud.default = Answer(hang=True)
    maker = provider()

    async def scenario() -> list[object]:
        calls = [asyncio.create_task(maker.generate_image("a fox")) for _ in range(3)]
        for _ in calls:
            await asyncio.to_thread(cloud.waiting.acquire, timeout=30)
        await maker.cancel_generation()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(r) for r in asyncio.run(scenario())] == [GenerationCancelledError] * 3


def test_cancel_during_a_slow_look_up_lets_the_caller_go(cloud: CloudServer) -> None:
    cloud.hub_delay_s = 1.0

    async def scenario() -> float:
        task = asyncio.create_task(provider().generate_image("a fox"))
        await wait_until_async(lambda: cloud.hub_requests > 0, message="the request to the Hub")
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 0.9


def test_fifty_calls_at_once_leave_the_callers_loop_free(cloud: CloudServer) -> None:
    cloud.default = Answer(delay_s=0.3)
    cloud.hub_delay_s = 0.3
    maker = provider()

    async def scenario() -> tuple[list[GeneratedImage], int]:
        ticks = 0

        async def ticker() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)  # sleep: the clock of the caller's loop
                ticks += 1

        task = asyncio.create_task(ticker())
        images = await asyncio.gather(*(maker.generate_image(f"fox {k}") for k in range(50)))
        task.cancel()
        return images, ticks

    images, ticks = asyncio.run(scenario())
    assert [i.prompt for i in images] == [f"fox {k}" for k in range(50)]
    assert ticks > 5
    for thread in [t for t in threading.enumerate() if t.name == "swiftai-cloud"]:
        thread.join(20)
        assert not thread.is_alive()


TWO = {
    "together": {"providerId": "together/m", "status": "live", "task": "text-to-image"},
    "hf-inference": {"providerId": "m", "status": "live", "task": "text-to-image"},
}


@pytest.mark.parametrize("status", [402, 404, 410, 503])
def test_auto_asks_the_next_provider_when_one_did_no_work(cloud: CloudServer, status: int) -> None:
    cloud.mapping = TWO
    cloud.answers = [Answer(status)]
    recipe = generate(provider()).recipe
    assert [path.split("/")[1] for path, _, _ in cloud.requests] == ["together", "hf-inference"]
    assert recipe is not None
    assert recipe.provider == "hf-inference"
    assert any(note.startswith("together was asked first") for note in recipe.notes)


@pytest.mark.parametrize("status", [400, 401, 403, 408, 422, 500, 502, 504])
def test_nothing_that_may_have_been_billed_or_is_our_fault_is_sent_again(
    cloud: CloudServer, status: int
) -> None:
    cloud.mapping = TWO
    cloud.default = Answer(status)
    with pytest.raises(AIError):
        generate(provider(retry_wait_s=30))
    assert len(cloud.requests) == 1


def test_a_broken_connection_is_not_sent_again(cloud: CloudServer) -> None:
    cloud.mapping = TWO
    cloud.default = Answer(reset=True)
    with pytest.raises(errors.NetworkError):
        generate(provider(retry_wait_s=30))
    assert len(cloud.requests) == 1


def test_a_named_provider_is_the_only_one_asked(cloud: CloudServer) -> None:
    cloud.mapping = TWO
    cloud.default = Answer(402)
    with pytest.raises(errors.QuotaExceededError):
        generate(provider(provider="together"))
    assert len(cloud.requests) == 1


def test_when_all_providers_fail_the_last_error_is_raised(cloud: CloudServer) -> None:
    cloud.mapping = TWO
    cloud.answers = [Answer(404), Answer(402)]
    with pytest.raises(errors.QuotaExceededError):
        generate(provider())
    assert len(cloud.requests) == 2


def test_a_key_of_one_provider_is_never_sent_to_another(
    cloud: CloudServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.inference._providers import PROVIDERS

    cloud.mapping = TWO
    cloud.default = Answer(402)
    monkeypatch.setattr(PROVIDERS["together"]["text-to-image"], "base_url", cloud.url + "/together")
    with pytest.raises(errors.QuotaExceededError) as caught:
        generate(provider(token="tgp_key"))
    assert len(cloud.requests) == 1
    assert "tgp_key" not in str(caught.value)
    assert all("tgp_key" not in str(headers) for _, headers in cloud.gets)


def test_the_given_token_orders_the_providers(cloud: CloudServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ambient_other")
    generate(provider())
    headers = {name.lower(): value for name, value in cloud.gets[0][1].items()}
    assert headers["authorization"] == f"Bearer {TOKEN}"


def test_the_list_of_providers_is_looked_up_once_and_again_after_a_failure(cloud: CloudServer) -> None:
    maker = provider(provider="auto")
    generate(maker)
    generate(maker)
    assert cloud.hub_requests == 1
    cloud.default = Answer(500)
    with pytest.raises(AIError):
        generate(maker)
    cloud.default = Answer()
    cloud.mapping = {"together": TWO["together"]}
    recipe = generate(maker).recipe
    assert cloud.hub_requests == 2
    assert recipe is not None
    assert recipe.provider == "together"


def test_the_users_own_token_is_not_sent_to_a_foreign_endpoint(
    cloud: CloudServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ambient_other")
    generate(HuggingFaceProvider(base_url=f"{cloud.url}/mine"))
    assert "hf_ambient_other" not in str(cloud.requests)
    generate(HuggingFaceProvider("hf_given_here", base_url=f"{cloud.url}/mine"))
    assert "hf_given_here" in str(cloud.requests[-1][2])


@pytest.mark.parametrize(
    ("url", "is_theirs"),
    [
        ("https://abc.us-east-1.aws.endpoints.huggingface.cloud", True),
        ("https://router.huggingface.co/x", True),
        ("http://router.huggingface.co/x", False),
        ("https://huggingface.co.evil.example/x", False),
        ("https://evilhuggingface.co/x", False),
    ],
)
def test_hosts_of_hugging_face(url: str, is_theirs: bool) -> None:
    assert is_hugging_face(url) is is_theirs


def test_bill_to_of_the_request_wins(cloud: CloudServer) -> None:
    maker = provider(bill_to="acme")
    plan = maker.plan(replace(GenerationRequest.of("a fox"), bill_to="other"))
    asyncio.run(maker.generate(plan))
    assert {k.lower(): v for k, v in cloud.requests[0][2].items()}["x-hf-bill-to"] == "other"


def test_default_models_are_of_tasks_that_the_library_has() -> None:
    assert all(provider_names(task) for task in MODELS)
    assert MODELS["text-to-image"][0] == DEFAULT_MODEL
