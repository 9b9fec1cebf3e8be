"""The other side of the pipe: a frame is a message or one ProtocolError; an error of the engine is an AIError."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import AIError, error_from_dict
from swiftai_nb.engine import protocol
from swiftai_nb.engine.channel import ChannelClosed, StreamChannel
from swiftai_nb.engine.messages import Generate
from tests.attack.limits import attack, only
from tests.attack.strategies import VALUES, flipped, json_like, mutated

MODEL = {
    "folder": "/m",
    "dtype": "float32",
    "loras": [{"source": "a/b", "scale": 1.0}],
    "more_folders": ["/p"],
}
HEADERS: list[dict[str, Any]] = [
    {
        "type": "Generate", "job_id": "1", "model": MODEL, "prompt": "a", "width": 8, "height": 8, "steps": 2,
        "guidance_scale": 1.5, "seed": 1, "preview": True, "parts": [["image", 3], ["mask", 1]],
    },
    {"type": "Step", "job_id": "1", "index": 0, "total": 2, "elapsed_s": 0.5, "parts": [["preview", 4]]},
    {"type": "Done", "width": 1, "height": 1, "notes": ["n"], "peak_memory_bytes": 5, "parts": [["pixels", 4]]},
    {"type": "Failed", "error": {"type": "EngineDiedError", "message": "m", "hint": None, "extra": {}}},
    {"type": "Status", "folder": "/m", "components": {"unet": 1}, "parts": []},
    {"type": "Ready", "pid": 1, "device": "cpu", "versions": {"mlx": "1"}, "start_s": 0.1},
    {"type": "Cancel", "job_id": "1"},
]  # fmt: skip
HEADER_BYTES = st.sampled_from(HEADERS).flatmap(json_like)
FRAMES = [b"".join(protocol.encode(Generate(job_id="1", prompt="a", image=b"123")))]


@attack
@given(HEADER_BYTES, st.binary(max_size=6))
def test_a_header_is_a_message_or_a_protocol_error(header: bytes, body: bytes) -> None:
    with only(protocol.ProtocolError, target="frames: decode"):
        message = protocol.decode(header, body)
        assert b"".join(protocol.encode(message))  # what was accepted can be sent on


@attack
@given(st.lists(st.sampled_from(FRAMES).flatmap(flipped) | st.binary(max_size=40), max_size=3))
def test_a_stream_of_frames_ends(frames: list[bytes]) -> None:
    channel = StreamChannel(io.BytesIO(b"".join(frames)), io.BytesIO())
    with only(protocol.ProtocolError, target="frames: stream"), contextlib.suppress(ChannelClosed):
        for _ in range(len(frames) + 1):
            channel.receive()


@attack
@given(mutated(HEADERS[3]["error"]) | st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_an_error_of_another_process_is_an_error_of_ours(data: dict[str, Any]) -> None:
    with only(target="frames: errors"):
        error = error_from_dict(data)
        assert isinstance(error, AIError)
        assert str(error)
        assert all(isinstance(line, str) for line in error._render_traceback_())
        json.dumps(error.to_dict())
