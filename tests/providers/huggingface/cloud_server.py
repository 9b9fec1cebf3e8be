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
        self.gets: list[tuple[str, dict[str, str]]] = []
        self.get_answers: list[Answer] = []  # for the next GETs that are not the Hub's
        self.polls_until_done = 1
        self.failed_job: str | None = None
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
        if not self.path.startswith("/api/models/"):
            self._get_job_or_picture()
            return
        self.cloud.hub_requests += 1
        self.cloud.gets.append((self.path, dict(self.headers)))
        time.sleep(self.cloud.hub_delay_s)  # sleep: a slow Hub
        model = self.path.removeprefix("/api/models/").split("?")[0]
        data = {"id": model, "_id": "1", "pipeline_tag": "text-to-image", "tags": [], "private": False}
        if self.cloud.mapping is not None:
            data["inferenceProviderMapping"] = self.cloud.mapping
        if self.cloud.hub_status != 200:
            self._send(self.cloud.hub_status, b'{"error":"no"}', headers={"X-Error-Code": "RepoNotFound"})
        else:
            self._send(200, json.dumps(data).encode())

    def _get_job_or_picture(self) -> None:
        cloud, path = self.cloud, self.path.split("?")[0]
        cloud.gets.append((self.path, dict(self.headers)))
        if cloud.get_answers:
            self._answer(cloud.get_answers.pop(0), self._job(path))
        else:
            self._send(200, *self._job(path))

    def _job(self, path: str) -> tuple[bytes, str]:
        """A provider's answer about a job, or the picture that every address stands for."""
        cloud = self.cloud
        if path.startswith("/pictures/"):
            return picture("JPEG"), "image/jpeg"
        cloud.polls_until_done -= not path.endswith("requests/job-1")
        state = 0 if cloud.polls_until_done > 0 else 2 if cloud.failed_job else 1
        url, why = f"{cloud.url}/pictures/1.jpg", cloud.failed_job
        if path.endswith("/status"):  # fal's queue
            body: dict[str, Any] = {
                "status": ("IN_QUEUE", "COMPLETED", "FAILED")[state],
                "queue_position": 3,
                "error": why,
            }
        elif path.endswith("requests/job-1"):
            body = {"images": [{"url": url}]}
        elif path.endswith("/result"):  # wavespeed
            body = {
                "data": {
                    "status": ("processing", "completed", "failed")[state],
                    "outputs": [url],
                    "error": why,
                }
            }
        elif "/async-result/" in path:  # zai
            body = {"task_status": ("PROCESSING", "SUCCESS", "FAIL")[state], "image_result": [{"url": url}]}
        else:  # replicate
            body = {"status": ("processing", "succeeded", "failed")[state], "output": [url], "error": why}
        return json.dumps(body).encode(), "application/json"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.cloud.requests.append((self.path, json.loads(body), dict(self.headers)))
        answer = self.cloud.answers.pop(0) if self.cloud.answers else self.cloud.default
        sent = self.cloud.requests[-1][1]
        steps = sent.get("parameters", sent).get("num_inference_steps")
        if answer.hang or (self.cloud.hang_at_steps is not None and steps == self.cloud.hang_at_steps):
            self._hang()
            return
        self._answer(answer, None)

    def _answer(self, answer: Answer, usual: tuple[bytes, str] | None) -> None:
        if answer.hang:
            self._hang()
            return
        time.sleep(answer.delay_s)  # sleep: a slow provider
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            # Every file over the socket holds it open: detach, then close the descriptor itself.
            os.close(self.connection.detach())
            self.close_connection = True
            return
        if usual is not None and answer.body is None and answer.status == 200:
            self._send(200, *usual)
            return
        self._send(answer.status, self._body(answer), answer.content_type, answer.headers)

    def _body(self, answer: Answer) -> bytes:
        if answer.body is not None:
            return answer.body
        if answer.status != 200:
            return b'{"error": "it went wrong"}'
        answers = {
            "replicate": {
                "id": "job-1",
                "status": "succeeded",
                "output": [f"{self.cloud.url}/pictures/1.jpg"],
            },
            "wavespeed": {
                "data": {"id": "job-1", "urls": {"get": "https://x/api/v3/predictions/job-1/result"}}
            },
            "zai-org": {"id": "job-1", "task_status": "PROCESSING"},
            "fal-ai": {"images": [{"url": f"{self.cloud.url}/pictures/1.jpg"}]},
        }
        provider = self.path.split("/")[1]
        if provider == "fal-ai" and "_subdomain=queue" in self.path:
            answers[provider] = {
                "request_id": "job-1",
                "response_url": "https://queue.fal.run/m/requests/job-1",
            }
        if provider in answers:
            return json.dumps(answers[provider]).encode()
        if provider in ("together", "nscale"):
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
