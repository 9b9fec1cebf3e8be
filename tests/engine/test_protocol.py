"""Frames: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.control import ControlReference
from swiftai_nb.core.errors import error_from_dict
from swiftai_nb.engine import protocol
from swiftai_nb.engine.channel import ChannelClosed, StreamChannel, memory_channel_pair
from swiftai_nb.engine.messages import Bye, Cancel, Done, Failed, Generate, Message, ModelFiles, Ready, Step
from swiftai_nb.engine.protocol import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    PROTOCOL_VERSION,
    ProtocolError,
    decode,
    encode,
)

CONTROL = ControlReference("canny@/nets/x", b"", 0.5, 0.0, 0.75, True)
MODEL = ModelFiles("/models/Kätzchen", "float16", 8, (LoraReference("style.safetensors", 0.5),))
EXAMPLES = [
    Generate("1", MODEL, 'a "cat"\n😺', "blurry", 512, 768, 20, 7.5, 7, "ddim", 2, 0.8, b"\x89PNG", b""),
    Generate("1", ModelFiles(""), "", preview=False),
    Generate("1", MODEL, "a scarf", image=b"start", references=(b"one", b"", b"three")),
    Generate("1", MODEL, "a scarf", references=(b"one",)),
    Generate("1", MODEL, "a fox", controls=(CONTROL, CONTROL), control_images=(b"", b"edges")),
    Cancel("1"),
    Step("1", 3, 20, 1.5, bytes(range(256))),
    Step("1", 3, 20, 2, None),
    Done("1", b"rgb" * 4, 2, 2, "ddim", "float32", ("one", "two")),
    Ready(pid=7, versions={"mlx": "0.32"}),
    Failed("1", {"type": "AIError", "message": "no", "hint": None, "extra": {}}),
    Bye(),
    Bye(error={"type": "AIError"}),
]


def frame_of(message):
    return b"".join(encode(message))


def receive(data):
    return StreamChannel(io.BytesIO(data), io.BytesIO()).receive()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_survives_the_wire(message):
    assert receive(frame_of(message)) == message


def test_every_field_of_every_message_has_a_reader():
    for kind in (*protocol._TYPES.values(), ModelFiles, LoraReference):
        for field in dataclasses.fields(kind):
            assert str(field.type).removesuffix(" | None") in protocol._READERS, (
                f"{kind.__name__}.{field.name}"
            )


def test_fields_of_a_newer_engine_are_ignored():
    header = json.dumps({"type": "Cancel", "job_id": "1", "mood": "good"}).encode()
    assert decode(header, b"") == Cancel("1")


def test_messages_follow_each_other_in_one_stream():
    channel = StreamChannel(io.BytesIO(b"".join(map(frame_of, EXAMPLES))), io.BytesIO())
    assert [channel.receive() for _ in EXAMPLES] == EXAMPLES
    with pytest.raises(ChannelClosed):
        channel.receive()


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_one_clear_error(data):
    with pytest.raises((ProtocolError, ChannelClosed)) as caught:
        receive(data)
    assert not data or len(str(caught.value).splitlines()) == 1


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_frame_is_refused_or_read_as_some_message(data):
    frame = bytearray(frame_of(data.draw(st.sampled_from(EXAMPLES))))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError, ChannelClosed):
        assert isinstance(receive(bytes(frame)), Message)


def test_a_frame_cut_anywhere_is_refused():
    frame = frame_of(EXAMPLES[0])
    for size in range(1, len(frame)):
        with pytest.raises(ProtocolError, match="the stream ended"):
            receive(frame[:size])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(protocol._TYPES)), st.data())
@settings(max_examples=300, deadline=None)
def test_headers_with_values_of_any_kind_are_refused_or_read(name, data):
    names = [field.name for field in dataclasses.fields(protocol._TYPES[name])]
    values = data.draw(st.dictionaries(st.sampled_from([*names, "parts"]), json_values, max_size=4))
    try:
        message = decode(json.dumps({"type": name, **values}).encode(), b"")
    except ProtocolError:
        return
    frame_of(message)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        (b"HTTP/1.1 400 Bad", "not a frame"),
        (protocol._PREFIX.pack(b"SWAI", PROTOCOL_VERSION + 1, 0, 2, 0), "version 2, need 1"),
        (protocol._PREFIX.pack(b"SWAI", PROTOCOL_VERSION, 0, MAX_HEADER_BYTES + 1, 0), "a header of"),
        (protocol._PREFIX.pack(b"SWAI", PROTOCOL_VERSION, 0, 2, MAX_BODY_BYTES + 1), "a body of"),
        (protocol._PREFIX.pack(b"SWAI", PROTOCOL_VERSION, 0, 2, MAX_BODY_BYTES) + b"{}", "the stream ended"),
        (protocol._PREFIX.pack(b"SWAI", PROTOCOL_VERSION, 0, 2, 0) + b"[]", "without a known type"),
        (protocol._PREFIX.pack(b"SWAI", PROTOCOL_VERSION, 0, 9, 0) + b"[" * 9, "not JSON"),
    ],
)
def test_a_wrong_prefix_says_what_is_wrong(prefix, words):
    with pytest.raises(ProtocolError, match=words):
        receive(prefix)


def test_parts_must_fill_the_body():
    header = json.dumps({"type": "Step", "parts": [["preview", 5]]}).encode()
    with pytest.raises(ProtocolError, match="parts of 5 bytes in a body of 4"):
        decode(header, b"1234")


def test_a_message_beyond_the_limits_is_not_sent():
    with pytest.raises(ProtocolError, match="a header of"):
        encode(Generate(prompt="x" * (MAX_HEADER_BYTES + 1)))


def test_large_bodies_cross_a_real_pipe_while_both_sides_write():
    (here_in, there_out), (there_in, here_out) = os.pipe(), os.pipe()
    files = [
        os.fdopen(fd, mode, buffering=0)
        for fd, mode in ((here_in, "rb"), (here_out, "wb"), (there_in, "rb"), (there_out, "wb"))
    ]
    here, there = StreamChannel(files[0], files[1]), StreamChannel(files[2], files[3])
    big = Done("1", os.urandom(5_000_000), 1, 1)
    thread = threading.Thread(target=there.send, args=(big,))
    thread.start()
    assert here.receive() == big
    thread.join()
    here.close()
    with pytest.raises(ChannelClosed):
        there.receive()
    for file in files:
        file.close()


def test_memory_channels_carry_messages_and_the_end():
    here, there = memory_channel_pair()
    here.send(Cancel("1"))
    assert there.receive() == Cancel("1")
    there.close()
    for channel in (here, there):
        with pytest.raises(ChannelClosed):
            channel.receive()
        with pytest.raises(ChannelClosed):
            channel.send(Cancel("2"))


@pytest.mark.parametrize(
    "header",
    [
        b'{"type": []}',
        b'{"type": {}}',
        b'{"type": null}',
        b'{"type": "Cancel", "parts": [["x", Infinity]]}',
        b'{"type": "Cancel", "parts": [["x", NaN]]}',
        b'{"type": "Cancel", "parts": [["x", 1e400]]}',
        b'{"type": "Cancel", "parts": [[[], 1]]}',
        b'{"type": "Cancel", "parts": {"x": 1}}',
        b'{"type": "Cancel", "parts": 7}',
        b'{"type": "Ready", "versions": {"mlx": 1}}',
        b'{"type": "Status", "components": {"unet": "large"}}',
        b'{"type": "Failed", "error": []}',
        b'{"type": "Generate", "model": {"folder": "", "loras": [{"source": []}]}}',
    ],
)
def test_values_of_the_wrong_kind_are_protocol_errors(header):
    with pytest.raises(ProtocolError):
        decode(header, b"")


@given(st.dictionaries(st.sampled_from(["type", "parts", "job_id", "error"]), json_values, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_json_object_is_a_message_or_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode(json.dumps(data).encode(), b""), Message)


@given(st.dictionaries(st.sampled_from(["type", "message", "hint", "extra"]), json_values, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_error_of_an_engine_can_be_raised_and_shown(data):
    error = error_from_dict(data)
    assert str(error)
    assert error._render_traceback_()
