"""A Hugging Face Hub on 127.0.0.1, with faults on demand: the ground truth of the download tests.

    with FakeHub({"org/model": {"model_index.json": b"{}", "unet/w.safetensors": data}}) as hub:
        hub.faults.throttle_bps = 1e6
        ...download with endpoint=hub.url...
        hub.fetched("unet/w.safetensors")   # how many bytes of it were sent

Large files (>= LFS_MIN_BYTES) have sha256 etags and are, as on the real Hub, redirected to another host
(here another port) with `hub.use_cdn()`. `hub.enable_xet(folder)` serves them through the real hf_xet from
a local store. Anything else can be answered by `hub.routes[("POST", "/regex")] = handler`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.downloads.repositories import LFS_MIN_BYTES, git_sha1, oid_of, sibling, tiny_repository

__all__ = ["GOOD_TOKEN", "FakeHub", "Faults", "Request", "tiny_repository"]

CHUNK_BYTES = 16 * 1024
GOOD_TOKEN = "hf_goodtoken"
EXPIRED_TOKEN = "hf_expiredtoken"


@dataclass
class Faults:
    """What goes wrong. Paths are inside a repository; may be changed while the server runs."""

    throttle_bps: float | None = None  # per response
    answer_after_s: float = 0.0  # for HEAD requests
    drip: set[str] = field(default_factory=set)  # one byte every 0.1 s, for ever
    drip_headers: set[str] = field(default_factory=set)  # the same, before the headers end
    drop_after: dict[str, list[int]] = field(default_factory=dict)  # path -> byte counts, one used per GET
    drop_mode: str = "fin"  # or "rst"
    ignore_range: set[str] = field(default_factory=set)
    corrupt: dict[str, int] = field(default_factory=dict)  # path -> how many more answers have a wrong byte
    hang: set[str] = field(default_factory=set)  # stall for ever after the headers
    hang_after: dict[str, int] = field(default_factory=dict)  # path -> bytes sent before the stall
    status: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)  # url regex -> answers
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    xet_only: set[str] = field(default_factory=set)  # plain GETs of these paths are refused
    no_metadata: bool = False  # the listing has names only, as some mirrors
    extra_listed: list[str] = field(default_factory=list)  # paths the listing makes up


@dataclass
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]  # names in Title-Case
    file: str | None = None
    status: int | None = None
    sent_bytes: int = 0
    first_byte: int = 0
    at_s: float = field(default_factory=time.monotonic)


class FakeHub:
    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = {name: dict(files) for name, files in repositories.items()}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.routes: dict[tuple[str, str], Callable[[Any, re.Match[str]], None]] = {}
        self.xet_hashes: dict[tuple[str, str], str] = {}
        self.xet_store: str | None = None
        self.cdn: FakeHub | None = None
        self.released = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def commit(self, repository: str) -> str:
        digest = hashlib.sha1(repository.encode())
        for path, data in sorted(self.repositories[repository].items()):
            digest.update(path.encode() + git_sha1(data).encode())
        return digest.hexdigest()

    def use_cdn(self) -> None:
        """Large files are redirected to a second server, which must never see a token."""
        self.cdn = FakeHub(self.repositories)
        self.cdn.faults = self.faults
        self.cdn.__enter__()

    def enable_xet(self, folder: Path) -> None:
        """Large files are offered through hf_xet from a local store (undocumented in hf_xet)."""
        import hf_xet

        self.xet_store = f"local://{folder.resolve()}"
        session = hf_xet.XetSession()
        for repository, files in self.repositories.items():
            for path, data in files.items():
                if len(data) >= LFS_MIN_BYTES:
                    with tempfile.TemporaryDirectory() as scratch:
                        source = Path(scratch, "file")
                        source.write_bytes(data)
                        with session.new_upload_commit(endpoint=self.xet_store) as commit:
                            upload = commit.start_upload_file(str(source))
                        self.xet_hashes[repository, path] = upload.result().xet_info.hash

    def gets(self, file: str | None = None) -> list[Request]:
        """GETs of files, of all or of one; with those of the second server."""
        own = [r for r in self.requests if r.method == "GET" and r.file is not None]
        others = [] if self.cdn is None else self.cdn.gets()
        return [r for r in own + others if (file is None or r.file == file) and r.status in (200, 206)]

    def fetched(self, file: str) -> int:
        """Bytes of a file that went out, over all requests."""
        return sum(r.sent_bytes for r in self.gets(file))

    def __enter__(self) -> FakeHub:
        serve = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        serve.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        if self.cdn is not None:
            self.cdn.__exit__()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            _quietly(lambda c=connection: c.shutdown(socket.SHUT_RDWR))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


def _quietly(action: Callable[[], Any]) -> None:
    try:
        action()
    except OSError:
        return


def _handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    record: Request

    def log_message(self, *_: object) -> None: ...

    def setup(self) -> None:
        super().setup()
        self.hub._connections.add(self.connection)

    def finish(self) -> None:
        self.hub._connections.discard(self.connection)
        _quietly(super().finish)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.record = Request(self.command, path, {k.title(): v for k, v in self.headers.items()})
        self.hub.requests.append(self.record)
        if self.command == "HEAD":
            self.hub.released.wait(self.hub.faults.answer_after_s)
        if self._injected_status(path):
            return
        for (method, pattern), route in self.hub.routes.items():
            if method == self.command and (match := re.fullmatch(pattern, path)):
                route(self, match)
                return
        self._answer_hub(path, parse_qs(url.query, keep_blank_values=True))

    def _answer_hub(self, path: str, query: dict[str, list[str]]) -> None:
        name = r"/api/models/([^/]+/[^/]+)"
        if match := re.fullmatch(name + r"(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2], query)
        elif match := re.fullmatch(name + r"/tree/([^/]+)(?:/.*)?", path):
            self._tree(match[1], match[2])
        elif re.fullmatch(name + r"/xet-read-token/[^/]+", path):
            self._xet_token()
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._send_file(match[1], match[2])
        else:
            self.refuse(404, None, "no such page")

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.record.status = status
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def refuse(
        self, status: int, code: str | None, words: str, headers: dict[str, str] | None = None
    ) -> None:
        extra = {"X-Error-Code": code} if code else {}
        self.send(
            status,
            json.dumps({"error": words}).encode(),
            {**extra, "X-Error-Message": words, **(headers or {})},
        )

    def _injected_status(self, path: str) -> bool:
        for pattern, answers in self.hub.faults.status.items():
            if answers and re.search(pattern, path):
                status, headers = answers.pop(0)
                self.refuse(status, None, f"injected {status}", headers)
                return True
        return False

    @property
    def token(self) -> str | None:
        value = self.headers.get("Authorization", "")
        return value.removeprefix("Bearer ") if value.startswith("Bearer ") else None

    def _is_hidden(self, repository: str, *, for_files: bool) -> bool:
        """Answers and says True when this client may not see it. The listing of a gated one is public."""
        if self.token == EXPIRED_TOKEN:  # refused even where none is needed, as on the real Hub
            self.refuse(401, None, "Invalid credentials in Authorization header")
            return True
        faults = self.hub.faults
        is_private = repository in faults.private and self.token != GOOD_TOKEN
        if repository not in self.hub.repositories or is_private:
            self.refuse(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
            return True
        if for_files and repository in faults.gated and self.token != GOOD_TOKEN:
            self.refuse(401 if self.token is None else 403, "GatedRepo", "Access to this model is restricted")
            return True
        return False

    def _has_revision(self, repository: str, revision: str | None) -> bool:
        if revision in (None, "main", self.hub.commit(repository)):
            return True
        self.refuse(404, "RevisionNotFound", "Invalid rev id")
        return False

    def _info(self, repository: str, revision: str | None, query: dict[str, list[str]]) -> None:
        if self._is_hidden(repository, for_files=False) or not self._has_revision(repository, revision):
            return
        files = self.hub.repositories[repository]
        with_metadata = "blobs" in query and not self.hub.faults.no_metadata
        siblings = [sibling(p, data, with_metadata=with_metadata) for p, data in files.items()]
        siblings += [{"rfilename": p, "size": 5, "blobId": "0" * 40} for p in self.hub.faults.extra_listed]
        gated = "auto" if repository in self.hub.faults.gated else False
        self.send_json(
            {"id": repository, "modelId": repository, "sha": self.hub.commit(repository), "private": False,
             "gated": gated, "tags": ["license:mit"], "siblings": siblings}
        )  # fmt: skip

    def _tree(self, repository: str, revision: str) -> None:
        if self._is_hidden(repository, for_files=False) or not self._has_revision(repository, revision):
            return
        entries = []
        for path, data in self.hub.repositories[repository].items():
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if len(data) >= LFS_MIN_BYTES:
                entry["lfs"] = {"oid": oid_of(data), "size": len(data), "pointerSize": 134}
            if (repository, path) in self.hub.xet_hashes:
                entry["xetHash"] = self.hub.xet_hashes[repository, path]
            entries.append(entry)
        self.send_json(entries)

    def _xet_token(self) -> None:
        store, expires = str(self.hub.xet_store), str(int(time.time()) + 3600)
        headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": expires}
        self.send_json({"accessToken": "t", "exp": int(expires), "casUrl": store}, headers)

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        self.record.file = path
        if self._is_hidden(repository, for_files=True) or not self._has_revision(repository, revision):
            return
        data = self.hub.repositories[repository].get(path)
        if path in self.hub.faults.drip_headers:
            _quietly(lambda: self._drip(b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000))
            return
        if data is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = self._file_headers(repository, path, data)
        if self.command == "HEAD":
            self.send(200, b"", {**headers, "Content-Length": str(len(data))})
        elif path in self.hub.faults.xet_only:
            self.refuse(403, None, "only through xet")
        elif self.hub.cdn is not None and len(data) >= LFS_MIN_BYTES:
            self.send(302, b"", {**headers, "Location": f"{self.hub.cdn.url}/cdn/{repository}/{path}"})
        else:
            self._send_file(repository, path)

    def _file_headers(self, repository: str, path: str, data: bytes) -> dict[str, str]:
        headers = {
            "X-Repo-Commit": self.hub.commit(repository),
            "ETag": f'"{oid_of(data)}"',
            "Accept-Ranges": "bytes",
        }
        if len(data) >= LFS_MIN_BYTES:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid_of(data)}"'}
        if (repository, path) in self.hub.xet_hashes:
            route = f"{self.hub.url}/api/models/{repository}/xet-read-token/{self.hub.commit(repository)}"
            headers |= {"X-Xet-Hash": self.hub.xet_hashes[repository, path], "X-Xet-Refresh-Route": route}
        return headers

    def _send_file(self, repository: str, path: str) -> None:
        self.record.file = path
        data = self.hub.repositories[repository][path]
        first = self._range_start(path)
        if first >= len(data) > 0:
            self.refuse(416, None, "range", {"Content-Range": f"bytes */{len(data)}"})
            return
        body = data[first:]
        if self.hub.faults.corrupt.get(path, 0) > 0:
            self.hub.faults.corrupt[path] -= 1
            body = body[:-1] + bytes([body[-1] ^ 0xFF])
        self.record.first_byte = first
        self.record.status = 206 if first > 0 else 200
        self.send_response(self.record.status)
        headers = self._file_headers(repository, path, data) | {"Content-Length": str(len(body))}
        if first > 0:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self._send_body(path, body)

    def _range_start(self, path: str) -> int:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        return 0 if match is None or path in self.hub.faults.ignore_range else int(match[1])

    def _send_body(self, path: str, body: bytes) -> None:
        faults = self.hub.faults
        drops = faults.drop_after.get(path)
        drop_at = drops.pop(0) if drops else None
        stall_at = 0 if path in faults.hang else faults.hang_after.get(path)
        end = min(x for x in (len(body), drop_at, stall_at) if x is not None)
        try:
            if path in faults.drip:
                self._drip(body)
            self._send_paced(body[:end])
            if stall_at is not None:
                self.hub.released.wait(120)
        except OSError:
            self.close_connection = True
            return
        if drop_at is not None or stall_at is not None:
            self._hang_up()

    def _drip(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.record.sent_bytes += 1
            if self.hub.released.wait(0.1):
                return

    def _send_paced(self, body: bytes) -> None:
        for start in range(0, len(body), CHUNK_BYTES):
            chunk = body[start : start + CHUNK_BYTES]
            self.wfile.write(chunk)
            self.record.sent_bytes += len(chunk)
            if self.hub.faults.throttle_bps is not None:
                self.hub.released.wait(len(chunk) / self.hub.faults.throttle_bps)

    def _hang_up(self) -> None:
        self.wfile.flush()
        time.sleep(0.02)  # sleep: the client reads what was sent; a reset discards what it has not read
        if self.hub.faults.drop_mode == "rst":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            _quietly(lambda: self.connection.shutdown(socket.SHUT_RDWR))
        self.connection.close()
        self.close_connection = True
