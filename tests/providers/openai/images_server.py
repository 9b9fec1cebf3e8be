"""A server on 127.0.0.1 that speaks OpenAI's Images API as its reference describes it, and misbehaves on request."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.providers.huggingface.cloud_server import picture


@dataclass
class Reply:
    """How to answer one request.

    `events` are sent as a stream; after them the connection ends, or hangs with `hang`.
    """

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    events: list[dict[str, Any] | str] | None = None
    hang: bool = False
    reset: bool = False
    delay_s: float = 0.0


@dataclass
class Sent:
    """What came in: `fields` of a JSON body or of a form, `files` as (name, bytes)."""

    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, bytes]] = field(default_factory=list)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def partial(index: int) -> dict[str, Any]:
    return {
        "type": "image_generation.partial_image",
        "b64_json": b64(picture()),
        "partial_image_index": index,
    }


def completed(data: bytes | None = None) -> dict[str, Any]:
    usage = {"total_tokens": 4160, "input_tokens": 14, "output_tokens": 4146}
    final = picture() if data is None else data
    return {"type": "image_generation.completed", "b64_json": b64(final), "usage": usage}


class ImagesServer:
    """Queue replies with `replies`; read what came in from `sent`."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.default = Reply()
        self.sent: list[Sent] = []
        self.models: list[str] | None = ["tiny"]
        self.key: str | None = None
        self.closed_at: list[float] = []
        self.waiting = threading.Semaphore(0)
        handler = type("Handler", (_Handler,), {"images": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def posts(self) -> list[Sent]:
        return [one for one in self.sent if one.method == "POST"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    images: ImagesServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.images.sent.append(Sent("GET", self.path, self._headers()))
        if self.path == "/v1/models" and self.images.models is not None:
            listed = [{"id": name, "object": "model"} for name in self.images.models]
            self._send(200, json.dumps({"object": "list", "data": listed}).encode())
        elif self.path == "/files/1.png":
            self._send(200, picture(), content_type="image/png")
        else:
            self._send(404, b'{"error": "no such address"}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        one = Sent("POST", self.path, self._headers())
        if "multipart/form-data" in self.headers.get("content-type", ""):
            one.fields, one.files = _form(self.headers["content-type"], body)
        else:
            one.fields = json.loads(body)
        self.images.sent.append(one)
        reply = self.images.replies.pop(0) if self.images.replies else self.images.default
        if self.images.key is not None and one.headers.get("authorization") != f"Bearer {self.images.key}":
            reply = Reply(
                401, b'{"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}'
            )
        time.sleep(reply.delay_s)  # sleep: a slow server
        if (reply.hang and reply.events is None) or one.fields.get("num_inference_steps") == 1000:
            self._hang()
        elif reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            os.close(self.connection.detach())
            self.close_connection = True
        elif reply.events is not None:
            self._stream(reply)
        else:
            usual = {"created": 1, "data": [{"b64_json": b64(picture())}]}
            default = (
                json.dumps(usual).encode() if reply.status == 200 else b'{"error": {"message": "it failed"}}'
            )
            body = default if reply.body is None else reply.body
            self._send(reply.status, body, reply.headers, reply.content_type)

    def _stream(self, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("connection", "close")
        self.end_headers()
        for event in reply.events or ():
            text = event if isinstance(event, str) else json.dumps(event)
            kind = event.get("type", "") if isinstance(event, dict) else ""
            self.wfile.write(f"event: {kind}\ndata: {text}\n\n".encode())
            self.wfile.flush()
        if reply.hang:
            self._hang()
        self.close_connection = True

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _hang(self) -> None:
        self.images.waiting.release()
        self.connection.settimeout(30)
        if self.connection.recv(1) == b"":
            self.images.closed_at.append(time.monotonic())
        self.close_connection = True

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        try:
            self.send_response(status)
            for name, value in {"content-type": content_type, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True


def _form(content_type: str, body: bytes) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    fields: dict[str, Any] = {}
    files: list[tuple[str, bytes]] = []
    for part in _parts(message):
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if part.get_filename() is None:
            fields[name] = data.decode("utf-8")
        else:
            files.append((name, data))
    return fields, files


def _parts(message: Any) -> Iterator[Any]:
    yield from message.iter_parts()
