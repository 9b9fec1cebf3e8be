"""What other programs say: prompt syntax and wildcard files, a server's answers, messages of the page."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.lora_blocks import block_scales
from swiftai_nb.core.prompt_choices import MAX_LENGTH, find_choices
from swiftai_nb.core.prompt_syntax import has_weights, parse_weights, split_and, take_lora_tags
from swiftai_nb.notebook.magic.controls import read_control
from swiftai_nb.notebook.widget.form import Presets, request_of
from swiftai_nb.notebook.wire import SETTINGS, received_bytes
from swiftai_nb.providers.cloud.pictures import decode_base64, decode_picture, to_jpeg_preview
from swiftai_nb.providers.openai.call import _events
from tests.attack.limits import attack, only
from tests.attack.strategies import ODD, VALUES, json_like, mutated, pngs

SYNTAX = st.lists(
    st.sampled_from(
        ["{", "}", "|", "$$", "2$$", "1-3$$", "::", "1e9::", "9" * 400 + "::", ".5::", "__a__", "__b__",
         "__../x__", "__a/b__", "\\", "\\{", "(", ")", "[", "]", "((", "))", ":1.3)", ":99999)", "BREAK", "AND",
         "<lora:a:1>", "<lora:", ":lbw=1>", "<lora:a:" + "9" * 400 + ">", "999$$ and $$"]
    )
    | st.text(max_size=6),
    max_size=16,
).map("".join)  # fmt: skip


@attack
@given(SYNTAX, st.dictionaries(st.sampled_from(["a", "b"]), SYNTAX | st.binary(max_size=30)), st.integers())
def test_choices_are_drawn_or_refused(prompt: str, wildcards: dict[str, str | bytes], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for word, content in wildcards.items():
            data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            (Path(name) / f"{word}.txt").write_bytes(data)
        with only(InvalidInputError, target="choices and wildcards"):
            choices, _ = find_choices(prompt, None, Path(name))
            if choices is not None:
                assert len(choices.draw(seed)[0]) <= MAX_LENGTH


@attack
@given(SYNTAX)
def test_weights_are_read_or_refused(prompt: str) -> None:
    with only(InvalidInputError, target="prompt syntax"):
        parse_weights(take_lora_tags(prompt)[0])


LONG = 100_000  # characters; each of these took minutes


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (take_lora_tags, "<lora:a:" + "9" * LONG),
        (take_lora_tags, ("<lora:a:" + "9" * 300 + "<") * 300),
        (take_lora_tags, ("<lora:a:0.8:" + "a:lbw=" * 100) * 100),
        (parse_weights, "(a:" + "9" * LONG),
        (has_weights, "(a:" + "9" * LONG),
        (has_weights, "[a:b:" + "9" * LONG),
        (split_and, "a AND b :" + "9" * LONG + "x"),
        (read_control, "canny=a:" + "9" * LONG + "x"),
        (block_scales, "9" * LONG + "x"),
    ],
)
def test_long_rows_of_digits_take_no_time(read: Callable[[str], object], text: str) -> None:
    with only(InvalidInputError, target="long rows of digits"):
        read(text)


class _Stream:
    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


EVENT = {"type": "image_generation.completed", "b64_json": "aGk=", "usage": {"total_tokens": 1}}
LINES = json_like(EVENT).map(lambda data: b"data: " + data + b"\n\n") | st.sampled_from(
    [b"event: x\n", b"\r", b"\r\n", b": note\n\n", b"data: [DONE]\n\n", b"data:" * 2000, b"\n\n\n"]
)


@attack
@given(st.lists(LINES | st.binary(max_size=20), max_size=6))
def test_an_event_stream_is_objects(chunks: list[bytes]) -> None:
    async def read() -> list[dict[str, Any]]:
        return [event async for event in _events(_Stream(chunks), "a server")]

    with only(AIError, target="event streams"):
        assert all(isinstance(event, dict) for event in asyncio.run(read()))


@attack
@given(pngs().map(lambda data: base64.b64encode(data).decode()) | ODD | VALUES)
def test_a_picture_in_an_answer_is_a_picture_or_refused(text: Any) -> None:
    with only(AIError, target="pictures in answers"):
        preview = to_jpeg_preview(text, "a server")
        assert preview is None or preview.startswith(b"\xff\xd8")
        decode_picture(decode_base64(text, "a server"), "a server")


FORM: dict[str, Any] = dict.fromkeys(SETTINGS) | {
    "prompt": "a fox",
    "engine": "local",
    "width": 64,
    "height": 64,
    "steps": 4,
    "guidance_scale": 7.5,
    "seed": 1,
    "count": 2,
    "aspect_ratio": "3:4",
    "style": "ink",
    "loras": [{"source": "a/b", "scale": 0.5}],
}


@attack
@given(mutated(FORM))
def test_a_form_of_the_page_is_a_request_or_refused(settings: dict[str, Any]) -> None:
    with only(AIError, target="widget: forms"):
        request_of(settings)


@attack
@given(
    st.dictionaries(st.just("data"), ODD | VALUES), st.none() | st.lists(st.binary(max_size=5), max_size=2)
)
def test_bytes_of_the_page_are_bytes_or_refused(content: dict[str, Any], buffers: list[bytes] | None) -> None:
    with only(AIError, target="widget: bytes"):
        assert isinstance(received_bytes({**content, "buffers": buffers}), bytes)


@attack
@given(json_like({"presets": {"a": FORM}}))
def test_presets_are_read_or_left_out(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "widget_presets.json").write_bytes(data)
        with only(AIError, target="widget: presets"):
            json.dumps(Presets(Path(name)).read())
