"""OpenAIImagesProvider against a real server that speaks the protocol and misbehaves on purpose."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from swiftai_nb.core import errors
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationCancelledError
from swiftai_nb.core.generator import PlanningGenerator
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.providers.openai import OpenAIImagesProvider
from swiftai_nb.providers.openai.server import DEFAULT_MODEL, checked_base_url, find_key
from tests.providers.huggingface.cloud_server import picture
from tests.providers.openai.images_server import ImagesServer, Reply, completed, partial
from tests.waiting import wait_until

KEY = "sk-proj-secret0123456789"
START = picture(size=(40, 30))
OTHER = picture(size=(30, 40))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ImagesServer]:
    server = ImagesServer()
    yield server
    server.close()


def provider(server: ImagesServer, **options: Any) -> OpenAIImagesProvider:
    return OpenAIImagesProvider(server.url, **{"retry_wait_s": 0, **options})


def generate(maker: OpenAIImagesProvider, prompt: str = "a fox", **options: Any) -> GeneratedImage:
    return asyncio.run(maker.generate_image(prompt, **options))


def test_conforms_to_the_protocol() -> None:
    assert isinstance(OpenAIImagesProvider(), PlanningGenerator)


def test_a_local_server_without_a_key(server: ImagesServer) -> None:
    maker = provider(server)
    assert maker.is_available
    config = ImageGenerationConfig(width=64, height=48, steps=4, guidance_scale=2.5, seed=0)
    image = generate(maker, negative_prompt="blur", config=config)
    (post,) = server.posts
    assert post.path == "/v1/images/generations"
    assert "authorization" not in post.headers
    assert post.fields == {
        "model": "tiny", "prompt": "a fox", "n": 1, "size": "64x48", "response_format": "b64_json", "seed": 0,
        "num_inference_steps": 4, "guidance_scale": 2.5, "negative_prompt": "blur",
    }  # fmt: skip
    recipe = image.recipe
    assert recipe is not None
    assert (recipe.engine, recipe.model, recipe.seed) == ("openai", "tiny", 0)
    assert recipe.provider == server.origin.removeprefix("http://")
    assert (image.width, image.height) == (64, 48)


def test_openais_own_models_get_only_what_they_know(server: ImagesServer) -> None:
    maker = provider(server, model="gpt-image-2", quality="low", background="opaque", partial_images=0)
    config = ImageGenerationConfig(steps=4, guidance_scale=2.0, seed=5, width=1536, height=864)
    recipe = generate(maker, negative_prompt="blur", config=config).recipe
    assert server.posts[0].fields == {
        "model": "gpt-image-2", "prompt": "a fox", "n": 1, "size": "1536x864", "quality": "low",
        "background": "opaque",
    }  # fmt: skip
    assert recipe is not None
    assert recipe.steps is None
    assert any("steps, guidance_scale, negative_prompt" in note for note in recipe.notes)
    assert any("no seed" in note for note in recipe.notes)


def test_partial_pictures_are_previews(server: ImagesServer) -> None:
    seen: list[ImageGenerationProgress] = []
    server.default = Reply(
        events=[partial(0), partial(1), completed(), "[DONE]"], headers={"x-request-id": "r"}
    )
    image = generate(provider(server, model="gpt-image-2"), on_progress=seen.append)
    fields = server.posts[0].fields
    assert (fields["stream"], fields["partial_images"]) == (True, 2)
    previews = [progress.preview for progress in seen if progress.preview]
    assert len(previews) == 2
    assert Image.open(io.BytesIO(previews[0])).format == "JPEG"
    assert image.recipe is not None
    assert image.recipe.price == "4160 tokens"


def test_preview_off_asks_for_no_stream(server: ImagesServer) -> None:
    maker = provider(server, model="gpt-image-2")
    generate(maker, config=ImageGenerationConfig(preview="off"))
    assert "stream" not in server.posts[0].fields


def test_a_server_may_answer_a_request_for_a_stream_as_a_whole(server: ImagesServer) -> None:
    assert generate(provider(server, partial_images=3)).width == 64
    assert server.posts[0].fields["partial_images"] == 3


@pytest.mark.parametrize(
    "events",
    [
        [],
        [partial(0)],
        ["not json", partial(0), {"type": "image_generation.partial_image"}],
        [{"type": "image_generation.completed"}],
        [{"type": "error", "error": {"message": "the safety system", "code": "moderation_blocked"}}],
        [{"type": "image_generation.completed", "b64_json": "%%%"}],
    ],
)
def test_a_stream_that_ends_badly_is_one_error_and_is_not_sent_again(
    server: ImagesServer, events: list[Any]
) -> None:
    server.default = Reply(events=events)
    with pytest.raises(AIError) as caught:
        generate(provider(server, partial_images=2, retry_wait_s=30))
    assert caught.value.hint
    assert len(server.posts) == 1


def test_an_endless_stream_is_cut_off(server: ImagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftai_nb.providers.cloud.http.MAX_ANSWER_BYTES", 2**18)
    server.default = Reply(events=["x" * 2**16] * 50)
    with pytest.raises(AIError):
        generate(provider(server, partial_images=2))


def test_events_that_arrive_in_pieces(server: ImagesServer) -> None:
    big = io.BytesIO()
    Image.effect_noise((400, 400), 90).save(big, "PNG")
    server.default = Reply(events=[partial(0), completed(big.getvalue())])
    assert generate(provider(server, partial_images=1)).width == 400


@pytest.mark.parametrize("end", ["\r\n\r\n", "\n\n", "\n", ""])
def test_events_of_every_spelling(server: ImagesServer, end: str) -> None:
    first = json.dumps(partial(0), indent=1).replace("\n", "\r\ndata: ")
    last = json.dumps(completed())
    raw = f": a comment\r\n\r\nid: 1\r\nevent: x\r\ndata: {first}\r\n\r\nretry: 5\ndata:{last}{end}"
    server.default = Reply(body=raw.encode(), content_type="text/event-stream")
    seen: list[ImageGenerationProgress] = []
    assert generate(provider(server, partial_images=1), on_progress=seen.append).width == 64
    assert any(progress.preview for progress in seen)


def test_an_answer_with_an_address(server: ImagesServer) -> None:
    server.key = KEY
    body = {"data": [{"url": f"{server.origin}/files/1.png", "revised_prompt": "a red fox"}]}
    server.default = Reply(body=json.dumps(body).encode(), headers={"x-request-id": "req-9"})
    recipe = generate(provider(server, api_key=KEY)).recipe
    assert recipe is not None
    assert recipe.request_id == "req-9"
    assert any("a red fox" in note for note in recipe.notes)
    fetch = next(one for one in server.sent if one.path.startswith("/files/"))
    assert "authorization" not in fetch.headers
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("name", ["gone.png", "1.png\r\nX: y"])
def test_an_address_that_is_gone_says_that_the_picture_was_made(server: ImagesServer, name: str) -> None:
    body = {"data": [{"url": f"{server.origin}/files/{name}"}]}
    server.default = Reply(body=json.dumps(body).encode())
    with pytest.raises(AIError):
        generate(provider(server, retry_wait_s=30))
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"{}", b'{"data": []}', b'{"data": [{}]}', b'{"data": [null]}',
        b'{"data": {"b64_json": "x"}}', b'{"data": [{"b64_json": "AAAA"}]}', b'{"data": [{"b64_json": 7}]}',
        b'{"data": [{"url": "file:///etc/passwd"}]}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_answer_without_a_picture(server: ImagesServer, body: bytes) -> None:
    server.default = Reply(body=body)
    with pytest.raises(errors.GenerationFailedError) as caught:
        generate(provider(server))
    assert caught.value.hint
    assert len(server.posts) == 1


def test_edits_send_pictures_and_a_mask_that_all_servers_read_alike(server: ImagesServer) -> None:
    mask = Image.new("L", (80, 60))
    mask.paste(255, (0, 0, 40, 60))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    config = ImageGenerationConfig(image=START, mask=buffer.getvalue(), strength=0.5, seed=1)
    recipe = generate(provider(server), "a hat", config=config).recipe
    (post,) = server.posts
    assert post.path == "/v1/images/edits"
    assert post.fields["prompt"] == "a hat"
    assert (post.fields["seed"], post.fields["strength"], post.fields["n"]) == ("1", "0.5", "1")
    assert [name for name, _ in post.files] == ["image", "mask"]
    sent_mask = Image.open(io.BytesIO(post.files[1][1]))
    assert sent_mask.size == (40, 30)
    assert sent_mask.getpixel((2, 2)) == (255, 255, 255, 0)  # white: painted; transparent: painted
    assert sent_mask.getpixel((38, 2)) == (0, 0, 0, 255)
    assert recipe is not None
    assert recipe.mask_sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()


def test_edits_with_several_pictures(server: ImagesServer) -> None:
    generate(provider(server), config=ImageGenerationConfig(image=START, references=[OTHER, START]))
    assert [name for name, _ in server.posts[0].files] == ["image[]"] * 3
    sizes = [Image.open(io.BytesIO(data)).size for _, data in server.posts[0].files]
    assert sizes == [(40, 30), (30, 40), (40, 30)]


def test_edits_stream_as_well(server: ImagesServer) -> None:
    seen: list[ImageGenerationProgress] = []
    kinds = ("image_edit.partial_image", "image_edit.completed")
    server.default = Reply(events=[{**partial(0), "type": kinds[0]}, {**completed(), "type": kinds[1]}])
    maker = provider(server, model="gpt-image-2")
    generate(maker, config=ImageGenerationConfig(references=[START]), on_progress=seen.append)
    assert server.posts[0].fields["stream"] == "true"
    assert any(progress.preview for progress in seen)


def test_a_transparent_background_stays_transparent(server: ImagesServer) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(buffer, "PNG")
    server.default = Reply(events=[completed(buffer.getvalue())])
    image = generate(provider(server, partial_images=0, background="transparent"))
    assert Image.open(io.BytesIO(image.data)).mode == "RGBA"
    assert image.pil.getpixel((0, 0)) == (255, 255, 255)


def test_stable_diffusion_cpp_reads_its_settings_from_the_prompt(server: ImagesServer) -> None:
    server.models = ["sd-cpp-local"]
    config = ImageGenerationConfig(steps=7, guidance_scale=3.5, seed=11, scheduler="euler-a")
    evil = 'a fox<sd_cpp_extra_args>{"lora": [{"path": "/etc"}]}</sd_cpp_extra_args>'
    generate(provider(server), evil, negative_prompt="blur", config=config)
    prompt = server.posts[0].fields["prompt"]
    block, _, rest = prompt.removeprefix("<sd_cpp_extra_args>").partition("</sd_cpp_extra_args>")
    assert json.loads(block) == {
        "seed": 11,
        "negative_prompt": "blur",
        "sample_params": {"sample_steps": 7, "sample_method": "euler_a", "guidance": {"txt_cfg": 3.5}},
    }
    assert rest == evil


def test_the_only_model_of_a_server_is_taken_and_of_several_one_must_be_chosen(server: ImagesServer) -> None:
    server.models = ["flux", "llama"]
    with pytest.raises(errors.InvalidInputError, match="serves 2 models") as caught:
        generate(provider(server))
    assert "--model flux, llama" in (caught.value.hint or "")
    assert server.posts == []
    assert asyncio.run(provider(server).models()) == ["flux", "llama"]
    generate(provider(server), config=ImageGenerationConfig(model="flux"))
    assert server.posts[0].fields["model"] == "flux"


@pytest.mark.parametrize("models", [None, []])
def test_a_server_that_lists_no_models_is_asked_without_one(
    server: ImagesServer, models: list[str] | None
) -> None:
    server.models = models
    generate(provider(server))
    assert "model" not in server.posts[0].fields


STATUS_ROWS = [
    (400, {}, errors.InvalidInputError),
    (400, {"code": "moderation_blocked"}, errors.ContentFilteredError),
    (400, {"code": "content_policy_violation"}, errors.ContentFilteredError),
    (400, {"type": "image_generation_user_error"}, errors.ContentFilteredError),
    (400, {"code": "billing_hard_limit_reached"}, errors.QuotaExceededError),
    (401, {}, errors.AuthenticationError),
    (402, {}, errors.QuotaExceededError),
    (403, {}, errors.AuthenticationError),
    (404, {}, errors.ModelNotFoundError),
    (400, {"code": "model_not_found"}, errors.ModelNotFoundError),
    (405, {}, errors.InvalidInputError),
    (408, {}, errors.GenerationTimeoutError),
    (413, {}, errors.InvalidInputError),
    (415, {}, errors.InvalidInputError),
    (418, {}, errors.InvalidInputError),
    (422, {}, errors.InvalidInputError),
    (429, {}, errors.RateLimitedError),
    (429, {"code": "insufficient_quota"}, errors.QuotaExceededError),
    (451, {}, errors.ContentFilteredError),
    (500, {}, errors.ServerError),
    (501, {}, errors.InvalidInputError),
    (502, {}, errors.ServerError),
    (503, {}, errors.ServerError),
    (307, {}, errors.ServerError),
]


@pytest.mark.parametrize(("status", "words", "kind"), STATUS_ROWS)
def test_every_status_is_one_error_with_a_remedy(
    server: ImagesServer, status: int, words: dict[str, str], kind: type[AIError]
) -> None:
    body = {"error": {"message": f"bad thing with {KEY}", **words}}
    server.default = Reply(status, json.dumps(body).encode(), headers={"Location": f"{server.origin}/x"})
    with pytest.raises(AIError) as caught:
        generate(provider(server, api_key=KEY))
    error = caught.value
    assert type(error) is kind
    assert error.hint
    assert "\n" not in error.message
    assert KEY not in f"{error} {error.__cause__!r} {error.__context__!r}"
    assert status == 307 or "bad thing" in error.message
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    "body", [b'{"error": "plain words"}', b'{"detail": "plain words"}', b"plain words", b""]
)
def test_errors_of_every_shape(server: ImagesServer, body: bytes) -> None:
    server.default = Reply(422, body)
    with pytest.raises(errors.InvalidInputError) as caught:
        generate(provider(server))
    assert caught.value.hint


@pytest.mark.parametrize("status", [400, 401, 408, 500, 502, 504])
def test_nothing_that_may_have_been_billed_is_sent_again(server: ImagesServer, status: int) -> None:
    server.default = Reply(status)
    with pytest.raises(AIError):
        generate(provider(server, retry_wait_s=30))
    assert len(server.posts) == 1


def test_a_broken_connection_is_not_sent_again(server: ImagesServer) -> None:
    server.default = Reply(reset=True)
    with pytest.raises(errors.NetworkError):
        generate(provider(server, retry_wait_s=30))
    assert len(server.posts) == 1


def test_a_busy_server_is_waited_for_within_a_bound(server: ImagesServer) -> None:
    server.replies = [Reply(429, headers={"Retry-After": "0"}), Reply(503), Reply()]
    generate(provider(server, retry_wait_s=5))
    assert len(server.posts) == 3
    server.replies = [Reply(429, headers={"Retry-After": "3600"})]
    with pytest.raises(errors.RateLimitedError) as caught:
        generate(provider(server, retry_wait_s=5))
    assert caught.value.retry_after_s == 3600


def test_an_unknown_model_names_those_of_the_server(server: ImagesServer) -> None:
    server.default = Reply(404)
    with pytest.raises(errors.ModelNotFoundError) as caught:
        generate(provider(server, model="other"))
    assert "tiny" in (caught.value.hint or "")


def test_a_server_without_edits_is_not_told_from_its_model_list(server: ImagesServer) -> None:
    server.default = Reply(404)
    with pytest.raises(errors.ModelNotFoundError) as caught:
        generate(provider(server), config=ImageGenerationConfig(references=[START]))
    assert "whether the server changes pictures" in (caught.value.hint or "")


def test_a_stream_may_end_with_an_address(server: ImagesServer) -> None:
    final = {"type": "image_generation.completed", "url": f"{server.origin}/files/1.png"}
    server.default = Reply(events=[final])
    assert generate(provider(server, partial_images=1)).width == 64


def test_redirects_are_not_followed(server: ImagesServer) -> None:
    server.default = Reply(308, headers={"Location": f"{server.origin}/elsewhere"})
    with pytest.raises(errors.ServerError):
        generate(provider(server, api_key=KEY))
    assert len(server.posts) == 1


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(errors.NetworkError, match=r"cannot reach 127\.0\.0\.1:9"):
        generate(OpenAIImagesProvider("http://127.0.0.1:9/v1"))


def test_timeout_is_an_error(server: ImagesServer) -> None:
    server.default = Reply(hang=True)
    with pytest.raises(errors.GenerationTimeoutError):
        generate(provider(server, timeout_s=0.5))


@pytest.mark.parametrize("streamed", [False, True])
def test_cancelling_the_task_closes_the_connection(server: ImagesServer, streamed: bool) -> None:
    server.default = Reply(hang=True, events=[partial(0)] if streamed else None)
    maker = provider(server, partial_images=2)
    chance = random.Random(5)

    async def scenario() -> None:
        for _ in range(4):
            task = asyncio.create_task(maker.generate_image("a fox"))
            await asyncio.to_thread(server.waiting.acquire)
            await asyncio.sleep(chance.random() * 0.1)  # sleep: a random moment of the call
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
    wait_until(lambda: len(server.closed_at) == 4, message="the end of every connection")


def test_cancel_generation_ends_every_running_call(server: ImagesServer) -> None:
    server.default = Reply(hang=True)
    maker = provider(server)

    async def scenario() -> list[object]:
        calls = [asyncio.create_task(maker.generate_image("a fox")) for _ in range(3)]
        for _ in calls:
            await asyncio.to_thread(server.waiting.acquire)
        await maker.cancel_generation()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in asyncio.run(scenario())] == [GenerationCancelledError] * 3


@pytest.mark.parametrize(
    "extra",
    [{"n": 4}, {"prompt": "x"}, {"stream": True}, {"output_format": "svg"}, {"image": "x", "model": "y"}],
)
def test_extra_settings_that_the_plan_decides_are_refused(
    server: ImagesServer, extra: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidInputError):
        generate(provider(server), config=ImageGenerationConfig(extra_body=extra))
    assert server.sent == []


def test_extra_settings_win_over_the_providers_own(server: ImagesServer) -> None:
    config = ImageGenerationConfig(extra_body={"quality": "high", "moderation": "low"})
    recipe = generate(provider(server, quality="low", background="opaque"), config=config).recipe
    fields = server.posts[0].fields
    assert (fields["quality"], fields["background"], fields["moderation"]) == ("high", "opaque", "low")
    assert recipe is not None
    assert any('quality="high"' in note for note in recipe.notes)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234/v1"),
        ("http://127.0.0.1:1234/", "http://127.0.0.1:1234/v1"),
        ("http://127.0.0.1:1234/v1/", "http://127.0.0.1:1234/v1"),
        (" https://x.example/openai/v1/images/generations ", "https://x.example/openai/v1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_addresses_as_people_write_them(given: str, used: str) -> None:
    assert checked_base_url(given) == used


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1234", "ftp://x/v1", "file:///x", "http://", "http://[", "x" * 9]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="base_url"):
        OpenAIImagesProvider(url)


def test_no_key_for_openai_is_said_before_anything_is_sent() -> None:
    maker = OpenAIImagesProvider()
    assert not maker.is_available
    with pytest.raises(errors.AuthenticationError) as caught:
        maker.plan("a fox")
    assert "OPENAI_API_KEY" in (caught.value.hint or "")


def test_the_key_of_openai_is_sent_to_nobody_else(
    server: ImagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAIImagesProvider().plan("a fox").model == DEFAULT_MODEL
    generate(provider(server))
    assert KEY not in str(server.sent)
    for url in (
        "http://api.openai.com/v1",
        "https://api.openai.com.evil.example/v1",
        "https://api.openai.com:444",
    ):
        assert find_key(url) is None
    monkeypatch.setenv("OPENAI_BASE_URL", server.origin)
    generate(OpenAIImagesProvider())
    assert server.posts[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_given_key_is_not_sent_to_the_server_of_one_request(server: ImagesServer) -> None:
    other = ImagesServer()
    maker = provider(server, api_key=KEY)
    plan = maker.plan(replace(GenerationRequest.of("a fox"), base_url=other.url))
    asyncio.run(maker.generate(plan))
    other.close()
    assert server.sent == []
    assert KEY not in str(other.sent)
    assert KEY not in repr(plan)


def test_a_key_of_the_keyring_belongs_to_its_host(
    server: ImagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = types.ModuleType("keyring")
    ring.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    ring.get_password = lambda service, name: {"127.0.0.1": "ring-key"}.get(name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    generate(provider(server))
    assert server.posts[0].headers["authorization"] == "Bearer ring-key"
    assert find_key("https://other.example/v1") is None


def test_a_locked_keyring_is_one_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = types.ModuleType("keyring")
    ring.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    assert find_key("https://other.example/v1") is None


def test_bill_to_is_openais_organization(server: ImagesServer) -> None:
    maker = provider(server, organization="org-a")
    asyncio.run(maker.generate(maker.plan(replace(GenerationRequest.of("a fox"), bill_to="org-b"))))
    assert server.posts[0].headers["openai-organization"] == "org-b"


def test_the_plan_says_where_everything_goes_and_what_it_costs() -> None:
    config = ImageGenerationConfig(image=START, references=[OTHER])
    local = OpenAIImagesProvider("http://127.0.0.1:1234/v1").plan("a fox", config)
    assert (
        local.sends
        == "the prompt, the start picture and 1 reference picture, to 127.0.0.1:1234 (this machine)"
    )
    assert local.cost == ""
    plan = OpenAIImagesProvider(api_key=KEY).plan("a fox")
    assert plan.sends == "the prompt, to api.openai.com"
    assert "2 previews" in plan.cost
    assert OpenAIImagesProvider("http://gpu.example").plan("x").destination.endswith("(not encrypted)")


def test_pictures_given_as_words_take_the_models_own_size() -> None:
    request = replace(GenerationRequest.of("a fox"), aspect_ratio=(3, 4))
    plan = OpenAIImagesProvider(api_key=KEY).plan(request)
    assert plan.width is not None
    assert plan.height is not None
    assert 900_000 < plan.width * plan.height < 1_100_000
    assert plan.width % 16 == plan.height % 16 == 0


@pytest.mark.parametrize("url", ["http://me:pw@127.0.0.1:1/v1", "https://x.example/v1?key=secret"])
def test_secrets_in_an_address_would_show_in_logs_and_are_refused(url: str) -> None:
    with pytest.raises(errors.InvalidInputError) as caught:
        OpenAIImagesProvider(url)
    assert "secret" not in str(caught.value)
    assert "pw" not in caught.value.message.replace("password", "")


def test_keys_and_pictures_are_in_no_log(server: ImagesServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    generate(provider(server, api_key=KEY), config=ImageGenerationConfig(references=[START]))
    server.default = Reply(500, json.dumps({"error": {"message": f"{KEY} failed"}}).encode())
    with pytest.raises(AIError):
        generate(provider(server, api_key=KEY))
    assert KEY not in caplog.text
    assert "iVBOR" not in caplog.text


def test_half_an_emoji_in_a_prompt_is_replaced(server: ImagesServer) -> None:
    config = ImageGenerationConfig(references=[START])
    generate(provider(server), "a fox \ud83e", negative_prompt="\udd8a")
    generate(provider(server), "a fox \ud83e", config=config)
    assert [post.fields["prompt"] for post in server.posts] == ["a fox \ufffd"] * 2


def test_a_proxy_is_not_used_for_this_machine(server: ImagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert generate(provider(server)).width == 64


def test_a_broken_partial_picture_does_not_lose_the_final_one(server: ImagesServer) -> None:
    broken = {"type": "image_generation.partial_image", "b64_json": 7}
    server.default = Reply(events=[broken, {**partial(0), "b64_json": "AAAA"}, completed()])
    assert generate(provider(server, partial_images=2)).width == 64


def test_an_address_in_the_environment_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    assert repr(OpenAIImagesProvider())
    with pytest.raises(errors.InvalidInputError, match="base_url"):
        OpenAIImagesProvider().plan("a fox")
