"""A Jupyter server of our own (JupyterLab and Notebook 7 in one), and notebooks opened in a page of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import nbformat
from playwright.sync_api import BrowserContext, Page

from tests.ipykernels import PROJECT, kernel_command
from tests.waiting import wait_until

PATIENCE_S = 120.0  # the machine may be busy with other things
_APP = "window.jupyterapp.shell.currentWidget"


class JupyterServer:
    """A server process with its own configuration, data and root folder, all below `folder`."""

    def __init__(self, folder: Path, *, kernels: dict[str, Path]) -> None:
        self.root = folder / "notebooks"
        self.root.mkdir(parents=True)
        self.token = secrets.token_hex(16)
        self.port = _free_port()
        self._log = (folder / "server.log").open("wb")
        for name, python in kernels.items():
            _write_kernel_spec(folder / "data" / "kernels" / name, python)
        _write_settings(folder / "settings")
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "SWIFTAI_HOME": str(folder / "swiftai"),
        }
        options = {
            "ServerApp.root_dir": self.root,
            "ServerApp.port": self.port,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "IdentityProvider.token": self.token,
            "LabApp.expose_app_in_browser": True,
            "JupyterNotebookApp.expose_app_in_browser": True,
        }
        command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=environment, cwd=self.root
        )

    def wait(self) -> None:
        """Returns when it answers."""
        wait_until(lambda: self._process.poll() is not None or self._answers(), PATIENCE_S)
        if self._process.poll() is not None:
            raise RuntimeError(
                "the Jupyter server did not start:\n" + Path(self._log.name).read_text()[-3000:]
            )

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.request("/api/status")
            return True
        return False

    def request(self, path: str, *, method: str = "GET") -> bytes:
        """One request to the server's API."""
        url = f"http://127.0.0.1:{self.port}{path}"
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def stop(self) -> None:
        """Ends every kernel, then the server."""
        with contextlib.suppress(OSError):
            for session in json.loads(self.request("/api/sessions")):
                self.request(f"/api/sessions/{session['id']}", method="DELETE")
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._log.close()


class NotebookPage:
    """One notebook in a page of its own, in JupyterLab ("lab") or Notebook 7 ("notebook")."""

    def __init__(
        self,
        context: BrowserContext,
        server: JupyterServer,
        path: Path,
        *,
        app: str = "lab",
        dark: bool = False,
        width: int = 1100,
        height: int = 900,
        starts_kernel: bool = True,
        forced_colors: Literal["active", "none"] = "none",
    ) -> None:
        """`context` may be shared: its pages have one cache, which brings a page's scripts a fifth sooner."""
        self.path = path
        self.server = server
        self.console: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme="dark" if dark else "light", forced_colors=forced_colors)
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.page.on("console", lambda message: self.console.append(message.text))
        where = "lab/tree" if app == "lab" else "notebooks"
        reset = "&reset" if app == "lab" else ""
        url = f"http://127.0.0.1:{server.port}/{where}/{path.name}?token={server.token}{reset}"
        self.page.goto(url)
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        if starts_kernel:
            self.until(f"{_APP}?.sessionContext?.session?.kernel?.status === 'idle'")
        theme = "JupyterLab Dark" if dark else "JupyterLab Light"
        self.command("apputils:change-theme", {"theme": theme})
        self.until(f"document.body.dataset.jpThemeName === '{theme}'")

    def until(self, expression: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Waits for a JavaScript expression to be true."""
        self.page.wait_for_function(f"() => {expression}", timeout=timeout_s * 1000)

    def command(self, name: str, arguments: dict[str, Any] | None = None, *, wait: bool = True) -> None:
        """Runs a command of the application, as its menus do; `wait_idle` waits for its end too."""
        script = """([name, args, wait]) => {
            const done = window.jupyterapp.commands.execute(name, args);
            window.pendingCommands = (window.pendingCommands ?? 0) + 1;
            const end = () => { window.pendingCommands -= 1; };
            done.then(end, end);
            return wait ? done.then(() => null) : null;
        }"""
        self.page.evaluate(script, [name, arguments or {}, wait])

    def run_all(self, *, wait: bool = False) -> None:
        """Runs every cell; `wait` until the kernel has done them."""
        self.command("notebook:run-all-cells", wait=False)
        if wait:
            self.wait_idle()

    def wait_idle(self, *, timeout_s: float = PATIENCE_S) -> None:
        """Waits until every command has ended, and no cell is running or waiting to."""
        self.until(
            "!window.pendingCommands && [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
            f".every(e => !e.textContent.includes('*')) && {_APP}.sessionContext.session.kernel.status === 'idle'",
            timeout_s=timeout_s,
        )

    def interrupt(self) -> None:
        """Presses the stop button."""
        self.command("notebook:interrupt-kernel")

    def restart_kernel(self) -> None:
        """Restarts the kernel, as its menu does after the question."""
        self.page.evaluate(f"() => {_APP}.sessionContext.session.kernel.restart()")

    def outputs(self, cell: int) -> list[str]:
        """The texts of a code cell's outputs."""
        script = (
            "i => [...document.querySelectorAll('.jp-CodeCell')[i]"
            ".querySelectorAll('.jp-OutputArea-output')].map(o => o.innerText)"
        )
        found: list[str] = self.page.evaluate(script, cell)
        return found

    def save(self) -> nbformat.NotebookNode:
        """Saves, and returns what is in the file."""
        self.command("docmanager:save")
        return nbformat.read(self.path, as_version=4)

    def screenshot(self, target: Path) -> None:
        """A picture of the page as it is."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=target)

    def close(self) -> None:
        """Closes the page and ends its kernel."""
        with contextlib.suppress(Exception):
            script = f"() => {_APP}.sessionContext.session?.id"
            session = self.page.evaluate(script)
            if session:
                self.server.request(f"/api/sessions/{session}", method="DELETE")
        self.page.close()


OpenNotebook = Callable[..., NotebookPage]


def write_notebook(path: Path, cells: Sequence[str], *, kernel: str = "python3") -> Path:
    """A notebook of code cells."""
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": spec}
    )
    nbformat.write(notebook, path)
    return path


def _write_kernel_spec(folder: Path, python: Path) -> None:
    folder.mkdir(parents=True)
    spec = {"argv": kernel_command(python), "display_name": folder.name, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))


def _write_settings(folder: Path) -> None:
    notification = folder / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notification.parent.mkdir(parents=True)
    notification.write_text('{"fetchNews": "false", "checkForUpdates": false}')


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
