"""Pictures that go out: what each provider is sent, how it answers, and what cancelling stops."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftai_nb.core import errors
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.providers.huggingface import HuggingFaceProvider
from swiftai_nb.providers.huggingface.hub import IMAGE_TO_IMAGE, MODELS, provider_names
from swiftai_nb.providers.huggingface.payload import PICTURE_FIELDS
from tests.providers.huggingface.cloud_server import Answer, CloudServer, picture
from tests.providers.huggingface.test_provider import MODEL, TOKEN, cloud, generate, provider
from tests.waiting import wait_until, wait_until_async

__all__ = ["cloud"]

EDITORS = ["fal-ai", "hf-inference", "replicate", "together", "wavespeed"]
START = picture(size=(40, 30))
OTHER = picture(size=(30, 40))
MASK = picture(size=(40, 30))


@pytest.fixture(autouse=True)
def all_providers_edit(cloud: CloudServer) -> None:
    cloud.mapping = {
        name: {"providerId": f"{name}/m", "status": "live", "task": "image-to-image"} for name in EDITORS
    }


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2] if "," in text else text)))


def sent(cloud: CloudServer) -> dict[str, Any]:
    body = cloud.requests[-1][1]
    inner: dict[str, Any] = body.get("input", body.get("parameters", body))
    return inner


def test_every_provider_that_the_library_knows_has_its_fields() -> None:
    assert set(provider_names(IMAGE_TO_IMAGE)) <= set(PICTURE_FIELDS)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("fal-ai", "image_url"),
        ("replicate", "input_image"),
        ("wavespeed", "image"),
        ("together", "reference_images"),
    ],
)
def test_a_start_picture_reaches_every_provider(cloud: CloudServer, name: str, field: str) -> None:
    image = generate(
        provider(provider=name),
        "make it blue",
        config=ImageGenerationConfig(image=START, strength=0.5, seed=3),
    )
    found = sent(cloud)[field]
    assert decoded(found if isinstance(found, str) else found[0]).size == (40, 30)
    assert sent(cloud)["prompt"] == "make it blue"
    assert sent(cloud)["seed"] == 3
    assert image.recipe is not None
    assert (image.recipe.provider, image.recipe.strength) == (name, 0.5)
    assert image.recipe.image_sha256 == hashlib.sha256(START).hexdigest()


def test_hf_inference_is_sent_base64_and_parameters(cloud: CloudServer) -> None:
    config = ImageGenerationConfig(references=[START], width=64, height=48)
    generate(provider(provider="hf-inference"), "blue", config=config)
    path, body, _ = cloud.requests[0]
    assert path == f"/hf-inference/models/{MODEL}"
    assert decoded(body["inputs"]).size == (40, 30)
    assert body["parameters"]["target_size"] == {"width": 64, "height": 48}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fal-ai", ["image_urls"]),
        ("replicate", ["images", "input_images"]),
        ("together", ["reference_images"]),
        ("wavespeed", ["images"]),
    ],
)
def test_several_references_go_by_each_providers_own_field(
    cloud: CloudServer, name: str, fields: list[str]
) -> None:
    image = generate(provider(provider=name), config=ImageGenerationConfig(references=[START, OTHER]))
    for field in fields:
        assert [decoded(text).size for text in sent(cloud)[field]] == [(40, 30), (30, 40)]
    assert image.recipe is not None
    assert image.recipe.references_sha256 == tuple(hashlib.sha256(p).hexdigest() for p in (START, OTHER))


@pytest.mark.parametrize(
    ("name", "mask", "size"),
    [
        ("fal-ai", "mask_url", {"image_size": {"width": 64, "height": 48}}),
        ("replicate", "mask", {"width": 64, "height": 48}),
        ("wavespeed", "mask_image", {"size": "64*48"}),
    ],
)
def test_mask_and_size_go_by_each_providers_own_field(
    cloud: CloudServer, name: str, mask: str, size: dict[str, Any]
) -> None:
    config = ImageGenerationConfig(image=START, mask=MASK, width=64, height=48)
    generate(provider(provider=name), config=config)
    assert decoded(sent(cloud)[mask]).size == (40, 30)
    assert size.items() <= sent(cloud).items()


@pytest.mark.parametrize("name", ["together", "hf-inference", "nscale"])
def test_a_mask_is_refused_before_anything_is_sent(cloud: CloudServer, name: str) -> None:
    with pytest.raises(errors.AIError) as caught:
        generate(provider(provider=name), config=ImageGenerationConfig(image=START, mask=MASK))
    assert "fal-ai" in (caught.value.hint or "")
    assert cloud.requests == []
    assert cloud.gets == []


def test_auto_passes_over_providers_that_cannot_take_the_pictures(cloud: CloudServer) -> None:
    cloud.mapping = {name: cloud.mapping[name] for name in ("hf-inference", "together", "wavespeed")}  # type: ignore[index]
    image = generate(provider(), config=ImageGenerationConfig(image=START, mask=MASK))
    assert image.recipe is not None
    assert image.recipe.provider == "wavespeed"


def test_auto_without_any_able_provider_says_so(cloud: CloudServer) -> None:
    cloud.mapping = {"together": cloud.mapping["together"]}  # type: ignore[index]
    with pytest.raises(errors.InvalidInputError, match="takes no mask"):
        generate(provider(), config=ImageGenerationConfig(image=START, mask=MASK))
    assert cloud.requests == []


def test_a_model_that_only_draws_is_told_from_one_that_nobody_serves(cloud: CloudServer) -> None:
    cloud.mapping = {"fal-ai": {"providerId": "m", "status": "live", "task": "text-to-image"}}
    with pytest.raises(errors.UnsupportedModelError, match="no provider changes pictures with") as caught:
        generate(provider(), config=ImageGenerationConfig(references=[START]))
    assert MODELS[IMAGE_TO_IMAGE][0] in (caught.value.hint or "")


def test_pictures_without_a_model_take_one_that_edits(cloud: CloudServer) -> None:
    image = generate(provider(model=None), config=ImageGenerationConfig(references=[START]))
    assert image.recipe is not None
    assert image.recipe.model == MODELS[IMAGE_TO_IMAGE][0]


def test_what_is_sent_has_no_metadata(cloud: CloudServer) -> None:
    exif = Image.Exif()
    exif[0x8298] = "a secret owner"
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif)
    mine = generate(
        provider(provider="fal-ai"), "an earlier prompt", config=ImageGenerationConfig(references=[START])
    )
    for data in (buffer.getvalue(), mine.data):
        generate(provider(provider="fal-ai"), config=ImageGenerationConfig(references=[data]))
        arrived = decoded(sent(cloud)["image_url"])
        arrived.load()
        assert not arrived.getexif()
        assert arrived.info == {}


def test_large_pictures_are_sent_as_jpeg(cloud: CloudServer) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2400, 2400)).save(buffer, "PNG")
    generate(provider(provider="fal-ai"), config=ImageGenerationConfig(references=[buffer.getvalue()]))
    assert sent(cloud)["image_url"].startswith("data:image/jpeg;base64,")
    assert decoded(sent(cloud)["image_url"]).size == (2400, 2400)


@pytest.mark.parametrize("name", ["fal-ai", "wavespeed", "zai-org", "replicate"])
def test_jobs_are_polled_with_the_token_and_fetched_without(cloud: CloudServer, name: str) -> None:
    cloud.polls_until_done = 3
    task = "text-to-image" if name == "zai-org" else "image-to-image"
    cloud.mapping = {name: {"providerId": "m", "status": "live", "task": task}}
    config = ImageGenerationConfig() if name == "zai-org" else ImageGenerationConfig(references=[START])
    if name == "replicate":
        body = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/predictions/abc"}}
        cloud.answers = [Answer(body=json.dumps(body).encode())]
    image = generate(provider(provider=name), config=config)
    assert (image.width, image.height) == (64, 48)
    polls = [headers for path, headers in cloud.gets if not path.startswith(("/api/models", "/pictures"))]
    assert len(polls) >= 3
    assert all({k.lower(): v for k, v in h.items()}["authorization"] == f"Bearer {TOKEN}" for h in polls)
    fetches = [headers for path, headers in cloud.gets if path.startswith("/pictures")]
    assert len(fetches) == 1
    assert "authorization" not in {name.lower() for name in fetches[0]}


def test_the_place_in_the_queue_is_reported(cloud: CloudServer) -> None:
    seen: list[ImageGenerationProgress] = []
    cloud.polls_until_done = 2
    generate(
        provider(provider="fal-ai"), config=ImageGenerationConfig(references=[START]), on_progress=seen.append
    )
    assert any("position 3" in progress.detail for progress in seen)


@pytest.mark.parametrize("name", ["fal-ai", "wavespeed"])
def test_a_failed_job_is_one_error_with_its_reason(cloud: CloudServer, name: str) -> None:
    cloud.failed_job = f"the worker with {TOKEN} crashed"
    with pytest.raises(errors.GenerationFailedError, match="crashed") as caught:
        generate(provider(provider=name), config=ImageGenerationConfig(references=[START]))
    assert TOKEN not in str(caught.value)
    assert len(cloud.requests) == 1


def test_a_bad_moment_while_polling_does_not_lose_the_paid_job(cloud: CloudServer) -> None:
    cloud.get_answers = [Answer(503), Answer(reset=True), Answer(429)]
    generate(provider(provider="fal-ai"), config=ImageGenerationConfig(references=[START]))
    assert len(cloud.requests) == 1


def test_an_accepted_job_is_never_sent_again(cloud: CloudServer) -> None:
    cloud.get_answers = [Answer(404)] * 9
    with pytest.raises(errors.ModelNotFoundError):
        generate(provider(retry_wait_s=30), config=ImageGenerationConfig(references=[START]))
    assert len(cloud.requests) == 1


def test_a_picture_that_is_gone_says_that_it_was_made(cloud: CloudServer) -> None:
    cloud.mapping = {"fal-ai": {"providerId": "m", "status": "live", "task": "text-to-image"}}
    cloud.get_answers = [Answer(404)]
    with pytest.raises(errors.GenerationFailedError, match="made the picture"):
        generate(provider(retry_wait_s=30))
    assert len(cloud.requests) == 1


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "//x", "ftp://127.0.0.1/x", "http://[", "", None, 7, {"a": 1}, "data:,"],
)
def test_only_web_addresses_are_fetched(cloud: CloudServer, address: object) -> None:
    cloud.mapping = {"fal-ai": {"providerId": "m", "status": "live", "task": "text-to-image"}}
    cloud.default = Answer(body=json.dumps({"images": [{"url": address}]}).encode())
    with pytest.raises(errors.GenerationFailedError):
        generate(provider())
    assert [path for path, _ in cloud.gets if not path.startswith("/api/")] == []


def test_the_token_stays_on_the_host_that_was_asked(cloud: CloudServer) -> None:
    body = {"request_id": "1", "response_url": "x:@127.0.0.1:9/steal", "status": "IN_QUEUE"}
    cloud.default = Answer(body=json.dumps(body).encode())
    with pytest.raises(errors.GenerationFailedError):
        generate(provider(provider="fal-ai"), config=ImageGenerationConfig(references=[START]))


def test_redirects_of_the_request_are_not_followed(cloud: CloudServer) -> None:
    cloud.default = Answer(307, headers={"Location": f"{cloud.url}/elsewhere"})
    with pytest.raises(errors.ServerError, match="redirects"):
        generate(provider(provider="fal-ai"), config=ImageGenerationConfig(references=[START]))
    assert len(cloud.requests) == 1


@pytest.mark.parametrize("stage", ["request", "poll", "fetch"])
def test_cancelling_closes_the_connection_whatever_the_call_is_doing(cloud: CloudServer, stage: str) -> None:
    if stage == "request":
        cloud.answers = [Answer(hang=True)]
    else:
        usual = [Answer()] * (0 if stage == "poll" else 2)
        cloud.get_answers = [*usual, Answer(hang=True)]

    async def scenario() -> None:
        maker = provider(provider="fal-ai")
        config = ImageGenerationConfig(references=[START])
        task = asyncio.create_task(maker.generate_image("a fox", config=config))
        await asyncio.to_thread(cloud.waiting.acquire, timeout=30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    wait_until(lambda: len(cloud.closed_at) == 1, message="the end of the connection")


def test_cancelling_stops_polling(cloud: CloudServer) -> None:
    cloud.polls_until_done = 10**6

    async def scenario() -> int:
        maker = provider(provider="wavespeed")
        config = ImageGenerationConfig(references=[START])
        task = asyncio.create_task(maker.generate_image("a fox", config=config))
        await wait_until_async(lambda: len(cloud.gets) > 2, message="the first polls")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        polls = len(cloud.gets)
        await asyncio.sleep(1.2)  # sleep: twice the time between polls
        return len(cloud.gets) - polls

    assert asyncio.run(scenario()) <= 1


def test_extra_body_reaches_the_provider_and_the_recipe_names_it(cloud: CloudServer) -> None:
    extra = {"output_format": "png", "loras": [{"path": "x" * 60}]}
    image = generate(
        provider(provider="fal-ai"), config=ImageGenerationConfig(references=[START], extra_body=extra)
    )
    assert extra.items() <= sent(cloud).items()
    assert image.recipe is not None
    assert 'sent as well: output_format="png", loras' in image.recipe.notes


def test_request_id_and_price_are_in_the_recipe(cloud: CloudServer) -> None:
    body = json.dumps(
        {"data": [{"b64_json": base64.b64encode(picture()).decode()}], "usage": {"cost": 0.0125}}
    )
    cloud.default = Answer(body=body.encode(), headers={"x-request-id": "req-7"})
    image = generate(provider(provider="together"), config=ImageGenerationConfig(references=[START]))
    assert image.recipe is not None
    assert (image.recipe.request_id, image.recipe.price) == ("req-7", "0.0125 USD")
    assert Recipe.from_dict(image.recipe.to_dict()) == image.recipe


def test_twenty_megabytes_arrive(cloud: CloudServer) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2900, 2900)).save(buffer, "PNG", compress_level=0)
    assert len(buffer.getvalue()) > 20_000_000
    cloud.default = Answer(body=buffer.getvalue(), content_type="image/png")
    image = generate(provider(provider="hf-inference"), config=ImageGenerationConfig(references=[START]))
    assert image.width == 2900


def test_an_endless_answer_is_cut_off(cloud: CloudServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftai_nb.providers.cloud.http.MAX_ANSWER_BYTES", 2**20)
    cloud.default = Answer(body=b"x" * 2**22)
    with pytest.raises(errors.GenerationFailedError, match="sent more than"):
        generate(provider(provider="hf-inference"), config=ImageGenerationConfig(references=[START]))


def test_strength_needs_a_start_picture() -> None:
    with pytest.raises(errors.InvalidInputError, match="strength without image"):
        provider().plan("a fox", ImageGenerationConfig(strength=0.5))


def test_the_plan_says_where_everything_goes() -> None:
    request = GenerationRequest.of("a fox", ImageGenerationConfig(image=START, mask=MASK))
    plan = provider(provider="fal-ai", bill_to="acme").plan(request)
    assert (
        plan.sends
        == "the prompt, the start picture and the mask, to fal-ai through Hugging Face, billed to acme"
    )
    assert TOKEN not in repr(plan)
    assert HuggingFaceProvider(base_url="https://me:pw@own.example/x").plan("a fox").sends == (
        "the prompt, to own.example"
    )


def test_half_an_emoji_in_a_prompt_is_replaced(cloud: CloudServer) -> None:
    generate(provider(provider="fal-ai"), "a \ud83e", config=ImageGenerationConfig(references=[START]))
    assert sent(cloud)["prompt"] == "a \ufffd"


def test_tokens_and_pictures_are_in_no_log(cloud: CloudServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    for name in EDITORS:
        generate(provider(provider=name), config=ImageGenerationConfig(references=[START]))
    assert TOKEN not in caplog.text
    assert "iVBOR" not in caplog.text


def test_a_missing_file_of_certificates_is_named(
    cloud: CloudServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(errors.NetworkError, match="certificates") as caught:
        generate(HuggingFaceProvider(base_url="https://own.example/x"))
    assert "SSL_CERT_FILE" in (caught.value.hint or "")
