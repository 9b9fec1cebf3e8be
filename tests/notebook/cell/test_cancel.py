"""A click on Cancel while the cell runs, as the wire sees it: several kernels, with and without subshells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.ipykernels import kernel_command, old_ipykernel_python

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(300),
]
PATIENCE_S = 90
VERSIONS = ["installed", "6.31.0", *os.environ.get("SWIFTAI_TEST_IPYKERNELS", "").split()]
SETUP = """\
%load_ext swiftai_nb
from swiftai_nb.notebook.session import get_session
from swiftai_nb.testing import FakeGenerator
get_session().add_generator("fake", FakeGenerator(step_duration_s=0.1))
%config Imagine.engine = "fake"
"""


class Client:
    """A front end that shows widgets: it speaks the protocol by hand."""

    def __init__(self, manager: KernelManager) -> None:
        self._client = manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE_S)
        self.messages: list[dict[str, Any]] = []

    def execute(self, code: str) -> str:
        """Sends a cell the way notebook front ends do: with its id in the metadata."""
        session = self._client.session
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "allow_stdin": False,
            "stop_on_error": True,
        }
        message = session.msg("execute_request", content, metadata={"cellId": "c1"})
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def until(self, kind: str, **content: Any) -> dict[str, Any]:
        """The next message of that type on iopub."""
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE_S)
            self.messages.append(message)
            if message["msg_type"] == kind and content.items() <= message["content"].items():
                return dict(message["content"])

    def reply(self, message_id: str) -> dict[str, Any]:
        """The reply to that cell."""
        while True:
            reply = self._client.get_shell_msg(timeout=PATIENCE_S)
            if reply["parent_header"]["msg_id"] == message_id:
                return dict(reply["content"])

    def run(self, source: str) -> None:
        """Executes a cell, again while the kernel still aborts what followed an error."""
        reply = {"status": "aborted"}
        while reply["status"] == "aborted":
            reply = self.reply(self.execute(source))
        assert reply["status"] == "ok", reply

    def click(self, comm_id: str, job_id: str, *, subshell_id: str | None = None) -> None:
        """What the page sends."""
        data = {"method": "custom", "content": {"kind": "cancel", "job_id": job_id}}
        message = self._client.session.msg("comm_msg", {"comm_id": comm_id, "data": data})
        if subshell_id is not None:
            message["header"]["subshell_id"] = subshell_id
        self._client.shell_channel.send(message)

    def create_subshell(self) -> str | None:
        """A subshell as JupyterLab makes it, or None where the kernel has none."""
        self._client.kernel_info()
        info = self._client.get_shell_msg(timeout=PATIENCE_S)["content"]
        if "kernel subshells" not in info.get("supported_features", []):
            return None
        message = self._client.session.msg("create_subshell_request", {})
        self._client.control_channel.send(message)
        answer: dict[str, Any] = self._client.get_control_msg(timeout=PATIENCE_S)
        return answer["content"].get("subshell_id")

    def close(self) -> None:
        """Closes the channels."""
        self._client.stop_channels()


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    try:
        python = Path(sys.executable) if request.param == "installed" else old_ipykernel_python(request.param)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"ipykernel {request.param} could not be installed: {error}")
    manager = KernelManager(kernel_name="python3")
    manager._kernel_spec = manager.kernel_spec_manager.get_kernel_spec("python3")
    manager._kernel_spec.argv = kernel_command(python)
    manager.start_kernel()
    front_end = Client(manager)
    try:
        front_end.reply(front_end.execute(SETUP))
        yield front_end
    finally:
        front_end.close()
        manager.shutdown_kernel(now=True)


def running_widget(client: Client, *, previews: int = 3) -> tuple[str, str]:
    """(comm id, job id) of the widget, after so many previews."""
    while True:
        opened = client.until("comm_open")
        state = opened["data"]["state"]
        if "job_id" in state:
            break
    while previews > 0:
        message = client.until("comm_msg", comm_id=opened["comm_id"])
        previews -= message["data"].get("method") == "custom"
    return opened["comm_id"], state["job_id"]


@pytest.mark.parametrize("front_end", ["main shell", "subshell"])
def test_click_reaches_a_running_cell(client: Client, front_end: str) -> None:
    subshell_id = None
    if front_end == "subshell":
        subshell_id = client.create_subshell()
        if subshell_id is None:
            pytest.skip("this kernel has no subshells")
    cell = client.execute("%%imagine --steps 300\na red fox")
    later = client.execute("print('must not run')")
    comm_id, job_id = running_widget(client)
    clicked_at = time.monotonic()
    client.click(comm_id, "another job", subshell_id=subshell_id)
    client.click(comm_id, job_id, subshell_id=subshell_id)
    reply = client.reply(cell)
    assert reply["status"] == "error"
    assert re.fullmatch(r"Cancelled at step \d+ of 300", reply["traceback"][0])
    assert time.monotonic() - clicked_at < 10, "a click must not wait for the cell's own end"
    assert client.reply(later)["status"] == "aborted"
    client.run("x = %imagine a cat --steps 2")


def test_other_messages_sent_meanwhile_are_answered_in_order(client: Client) -> None:
    first = client.execute("order = []\n_ = %imagine --steps 12 a red fox\norder.append(0)")
    rest = [client.execute(f"order.append({k})") for k in range(1, 6)]
    assert client.reply(first)["status"] == "ok"
    for message_id in rest:
        assert client.reply(message_id)["status"] == "ok"
    assert client.reply(client.execute("assert order == [0, 1, 2, 3, 4, 5], order"))["status"] == "ok"


def test_previews_are_binary_messages_and_not_state(client: Client) -> None:
    cell = client.execute("_ = %imagine --steps 40 a red fox")
    assert client.reply(cell)["status"] == "ok"
    client.until("comm_close")
    customs = [
        m for m in client.messages
        if m["msg_type"] == "comm_msg" and m["content"]["data"].get("method") == "custom"
    ]  # fmt: skip
    assert len(customs) >= 2
    assert all(bytes(m["buffers"][0]).startswith(b"\xff\xd8") for m in customs)
    states = [m for m in client.messages if "state" in m["content"].get("data", {})]
    assert all(not m["buffers"] for m in states)
