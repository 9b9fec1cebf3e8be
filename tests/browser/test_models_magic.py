"""`%imagine_models` in a real page: the table, a running download, its Cancel button, and going on."""

from __future__ import annotations

import re
from pathlib import Path

from tests.browser.jupyter import NotebookPage, OpenNotebook
from tests.downloads.fake_hub import FakeHub, tiny_repository

SETUP = """\
import os
for name in ("HF_HOME", "HF_HUB_CACHE", "SWIFTAI_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
os.environ.update(HF_HUB_OFFLINE="0", HF_ENDPOINT={url!r}, HOME={home!r})
%load_ext swiftai_nb
%imagine_models add org/tiny --variant sd-1.5
"""
WEIGHTS_BYTES = 3_000_000


def start(open_notebook: OpenNotebook, hub: FakeHub, folder: Path, cells: list[str]) -> NotebookPage:
    setup = SETUP.format(url=hub.url, home=str(folder / "home"))
    page = open_notebook([setup, *cells], width=1400, height=1150)
    page.run_all()
    return page


def test_table_and_running_download_with_cancel(
    open_notebook: OpenNotebook, tmp_path: Path, screenshots: Path
) -> None:
    with FakeHub({"org/tiny": tiny_repository(WEIGHTS_BYTES)}) as hub:
        hub.faults.throttle_bps = 150_000
        page = start(open_notebook, hub, tmp_path, ["%imagine_models", "%imagine_models download org/tiny"])
        page.until("/[1-9]\\d? %/.test(document.querySelector('.swiftai-cell')?.innerText ?? '')")
        page.until("/[kM]B\\/s/.test(document.querySelector('.swiftai-cell').innerText)")
        page.page.locator(".swiftai-cell__cancel").last.scroll_into_view_if_needed()
        page.screenshot(screenshots / "models-table-and-download.png")
        running = page.page.locator(".swiftai-cell").last.inner_text()
        assert re.search(r"of 5\.5 MB", running), running
        page.page.locator(".swiftai-cell__cancel").last.click()
        page.wait_idle(timeout_s=30)
        table = page.outputs(1)[0]
        assert "sdxl-turbo" in table
        assert "sai-nc-community" in table
        ended = "\n".join(page.outputs(2))
        assert "cancelled" in ended.lower(), ended
        assert "Traceback" not in ended
        sent_before = sum(r.sent_bytes for r in hub.gets())
        assert 0 < sent_before < 5_000_000


def test_cancelled_download_goes_on_in_the_next_cell(open_notebook: OpenNotebook, tmp_path: Path) -> None:
    cells = ["%imagine_models download org/tiny", "%imagine_models list"]
    with FakeHub({"org/tiny": tiny_repository(WEIGHTS_BYTES)}) as hub:
        hub.faults.throttle_bps = 150_000
        page = start(open_notebook, hub, tmp_path, cells)
        page.until("/[1-9]\\d? %/.test(document.querySelector('.swiftai-cell')?.innerText ?? '')")
        page.interrupt()
        page.wait_idle(timeout_s=30)
        assert page.outputs(2) == [], "Run All stops"
        hub.faults.throttle_bps = None
        before = len(hub.gets())
        page.run_all(wait=True)
        assert any(r.first_byte > 0 for r in hub.gets()[before:]), "it begins where it stopped"
        assert "is ready" in "\n".join(page.outputs(1))
        assert re.search(r"org/tiny\s.*yes", page.outputs(2)[0])
