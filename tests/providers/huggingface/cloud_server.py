"""A server on 127.0.0.1 that speaks the Hub's and the providers' real routes, and misbehaves on request."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def picture(file_format: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 80, 40)).save(buffer, file_format)
    return buffer.getvalue()


@dataclass
class Answer:
    """How to answer one POST: status, body, headers; or silence."""

    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    delay_s: float = 0.0
    reset: bool = False


class CloudServer:
    """Queue answers with `answers`; read what came in from `requests`."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.default = Answer()
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.mapping: dict[str, Any] | None = {
            "hf-inference": {"providerId": "m", "status": "live", "task": "text-to-image"},
            "together": {"providerId": "together/m", "status": "live", "task": "text-to-image"},
        }
        self.hub_delay_s = 0.0
        self.hub_requests = 0
        self.hub_status = 200
        self.hang_at_steps: int | None = None
        self.closed_at: list[float] = []
        self.waiting = threading.Semaphore(0)
        handler = type("Handler", (_Handler,), {"cloud": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    cloud: CloudServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.cloud.hub_requests += 1
        time.sleep(self.cloud.hub_delay_s)  # sleep: a slow Hub
        if self.path.startswith("/api/models/"):
            model = self.path.removeprefix("/api/models/").split("?")[0]
            data = {"id": model, "_id": "1", "pipeline_tag": "text-to-image", "tags": [], "private": False}
            if self.cloud.mapping is not None:
                data["inferenceProviderMapping"] = self.cloud.mapping
            if self.cloud.hub_status != 200:
                self._send(self.cloud.hub_status, b'{"error":"no"}', headers={"X-Error-Code": "RepoNotFound"})
            else:
                self._send(200, json.dumps(data).encode())
        else:
            self._send(200, picture("JPEG"), "image/jpeg")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.cloud.requests.append((self.path, json.loads(body), dict(self.headers)))
        answer = self.cloud.answers.pop(0) if self.cloud.answers else self.cloud.default
        steps = self.cloud.requests[-1][1].get("parameters", {}).get("num_inference_steps")
        if answer.hang or (self.cloud.hang_at_steps is not None and steps == self.cloud.hang_at_steps):
            self._hang()
            return
        time.sleep(answer.delay_s)  # sleep: a slow provider
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            # Every file over the socket holds it open: detach, then close the descriptor itself.
            os.close(self.connection.detach())
            self.close_connection = True
            return
        self._send(answer.status, self._body(answer), answer.content_type, answer.headers)

    def _body(self, answer: Answer) -> bytes:
        if answer.body is not None:
            return answer.body
        if answer.status != 200:
            return b'{"error": "it went wrong"}'
        if self.path.startswith("/together"):
            return json.dumps({"data": [{"b64_json": base64.b64encode(picture("JPEG")).decode()}]}).encode()
        answer.content_type = "image/png"
        return picture()

    def _hang(self) -> None:
        self.cloud.waiting.release()
        self.connection.settimeout(30)
        if self.connection.recv(1) == b"":
            self.cloud.closed_at.append(time.monotonic())
        self.close_connection = True

    def _send(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
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
