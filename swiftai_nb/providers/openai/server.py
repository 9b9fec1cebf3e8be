"""Which server is meant, which key it gets, and what it serves."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.providers.cloud.http import http_client, is_on_this_machine, is_web_address, send

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-image-2.5-flare"
KEY_VARIABLE = "OPENAI_API_KEY"
BASE_URL_VARIABLE = "OPENAI_BASE_URL"
KEYRING_SERVICE = "swiftai_nb"
MODELS_TIMEOUT_S = 10.0
MAX_LISTED_MODELS = 1000
SD_CPP_MODEL = "sd-cpp-local"  # the one model that stable-diffusion.cpp's server lists
# Models of OpenAI, wherever they are served: they refuse parameters that they do not know.
_OPENAI_MODELS = ("gpt-image", "chatgpt-image", "dall-e")


@dataclass(frozen=True)
class Server:
    """A server and its key.

    Args:
        base_url: such as "http://127.0.0.1:1234/v1", without a slash at the end.
        key: sent as a bearer token; None sends none.
        organization: OpenAI's, that pays; None is the key's own.
    """

    base_url: str
    key: str | None = field(default=None, repr=False)
    organization: str | None = None

    @property
    def name(self) -> str:
        """Host and port."""
        address = urlsplit(self.base_url)
        return f"{address.hostname}:{address.port}" if address.port else str(address.hostname)

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own service."""
        return urlsplit(self.base_url).hostname == urlsplit(DEFAULT_BASE_URL).hostname

    @property
    def is_on_this_machine(self) -> bool:
        """Whether nothing leaves this machine."""
        return is_on_this_machine(self.base_url)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        found = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return found | ({} if self.organization is None else {"OpenAI-Organization": self.organization})


def is_openai_model(model: str | None) -> bool:
    """Whether it is one of OpenAI's models, by its name."""
    return model is not None and model.rpartition("/")[2].startswith(_OPENAI_MODELS)


def checked_base_url(url: str) -> str:
    """The address as it is used: without the slash at the end, with "/v1" where there is no path.

    Raises:
        InvalidInputError: not an http or https address.
    """
    if not isinstance(url, str) or not is_web_address(url.strip()):
        raise InvalidInputError(
            "base_url is not an http or https address", hint="such as http://127.0.0.1:1234/v1"
        )
    address = urlsplit(url.strip())
    if address.username or address.password or address.query:
        # They would show in logs of the HTTP client.
        raise InvalidInputError(
            "base_url holds a user name, a password or a query",
            hint="give the address alone; a key goes into the keyring or into api_key",
        )
    path = address.path.rstrip("/")
    for ending in ("/images/generations", "/images/edits", "/models"):
        path = path.removesuffix(ending)
    return urlunsplit((address.scheme, address.netloc, path or "/v1", "", ""))


def default_base_url() -> str:
    """The address in `OPENAI_BASE_URL`, else OpenAI's own."""
    return os.environ.get(BASE_URL_VARIABLE, "").strip() or DEFAULT_BASE_URL


def find_key(base_url: str) -> str | None:
    """The user's key for a server, and for no other one.

    `OPENAI_API_KEY` belongs to OpenAI and to the server in `OPENAI_BASE_URL`; keys of other servers are in
    the keyring, under the service "swiftai_nb" and the host's name.
    """
    owners = {_origin(DEFAULT_BASE_URL), _origin(default_base_url())}
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and _origin(base_url) in owners:
        return key
    return _key_of_keyring(urlsplit(base_url).hostname or "")


def key_help(base_url: str) -> str:
    """How to provide a key for a server; a hint."""
    host = urlsplit(base_url).hostname
    command = f"keyring set {KEYRING_SERVICE} {host}"
    if _origin(base_url) in (_origin(DEFAULT_BASE_URL), _origin(default_base_url())):
        return f"set {KEY_VARIABLE} before the kernel starts, or run {command} in a terminal"
    return f"run {command} in a terminal (pip install keyring), or OpenAIImagesProvider(api_key=...)"


async def fetch_models(server: Server) -> list[str]:
    """Names of the models that a server lists; none where it lists none or refuses.

    Raises:
        Exception: httpx's, for a server that cannot be reached.
    """
    url = f"{server.base_url}/models"
    async with http_client(MODELS_TIMEOUT_S, url=url) as client:
        response = await send(client, "GET", url, headers=server.headers)
    if not response.is_success:
        return []
    try:
        listed: Any = json.loads(response.content)
        items = listed["data"] if isinstance(listed, dict) else listed
        names = [item["id"] for item in items[:MAX_LISTED_MODELS]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str) and name.isprintable() and len(name) <= 200]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        address = urlsplit(url)
        port = address.port if address.port is not None else {"https": 443, "http": 80}.get(address.scheme)
        return address.scheme, address.hostname, port
    except ValueError:
        return "", None, None


def _key_of_keyring(host: str) -> str | None:
    if importlib.util.find_spec("keyring") is None:
        return None
    try:
        found: str | None = importlib.import_module("keyring").get_password(KEYRING_SERVICE, host)
    except Exception:  # noqa: BLE001 (a locked or broken keyring is one without a key)
        return None
    return found or None
