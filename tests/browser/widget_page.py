"""The widget as a user meets it in a page: what it says, and its controls by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

PATIENCE_MS = 120_000
CARD = ".swiftai-nb"
# Keeps a fingerprint of every picture that enters the stage, and the words beside it.
_WATCH = """root => {
  window.frames_seen = []; window.words_seen = [];
  const look = () => {
    for (const image of root.querySelectorAll('.layers img')) {
      if (image.dataset.seen) continue;
      image.dataset.seen = '1';
      fetch(image.src).then(r => r.arrayBuffer()).then(b => crypto.subtle.digest('SHA-1', b)).then(d =>
        window.frames_seen.push(Array.from(new Uint8Array(d).slice(0, 6)).join('.'))).catch(() => {});
    }
    const words = root.querySelector('.caption .first').textContent;
    if (words !== window.words_seen.at(-1)) window.words_seen.push(words);
  };
  new MutationObserver(look).observe(root, {childList: true, subtree: true, characterData: true});
  look();
}"""


class Card:
    """One view of the widget.

    Args:
        page: the browser's page.
        index: which one, when there are several.
    """

    def __init__(self, page: Page, *, index: int = 0) -> None:
        self.page = page
        self.root = page.locator(CARD).nth(index)
        self.root.locator(".card").wait_for(timeout=PATIENCE_MS)

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=name, exact=True)

    def write(self, prompt: str) -> None:
        self.root.get_by_label("Prompt", exact=True).fill(prompt)

    def imagine(self, prompt: str) -> None:
        """Types and presses Imagine, or queues when something runs."""
        self.write(prompt)
        self.root.get_by_label("Prompt", exact=True).press("Control+Enter")

    def confirm(self) -> None:
        """Presses "Start anyway" if the page asks, which depends on the machine's measured times."""
        self.page.wait_for_function(
            "card => !card.querySelector('.question').hidden || card.querySelector('.tile.live')",
            arg=self.root.element_handle(),
            timeout=PATIENCE_MS,
        )
        if self.button("Start anyway").is_visible():
            self.button("Start anyway").click()

    @property
    def words(self) -> str:
        """The line under the stage."""
        return self.root.locator(".caption .first").inner_text()

    @property
    def scene(self) -> str:
        return self.root.locator(".caption").get_attribute("data-scene") or ""

    def wait_scene(self, scene: str) -> None:
        try:
            self.root.locator(f".caption[data-scene={scene}]").wait_for(timeout=PATIENCE_MS)
        except PlaywrightTimeoutError as error:
            raise AssertionError(f"no {scene!r} but {self.scene!r}: {self.root.inner_text()}") from error

    def wait_step(self, step: int) -> None:
        """Until so many steps of the picture are done."""
        self.page.wait_for_function(
            "([card, step]) => Number(card.querySelector('.caption').dataset.step ?? 0) >= step",
            arg=[self.root.element_handle(), step],
            timeout=PATIENCE_MS,
        )

    def wait_pictures(self, count: int) -> None:
        """Until the filmstrip holds so many."""
        self.page.wait_for_function(
            "([card, count]) => card.querySelectorAll('.tile:not(.live)').length === count",
            arg=[self.root.element_handle(), count],
            timeout=PATIENCE_MS,
        )

    def watch(self) -> None:
        """From now on `frames` and `said` grow."""
        self.root.evaluate(_WATCH)

    @property
    def frames(self) -> list[str]:
        """Fingerprints of the pictures that entered the stage."""
        seen: list[str] = self.page.evaluate("() => window.frames_seen")
        return seen

    @property
    def said(self) -> list[str]:
        """What the line under the stage said."""
        seen: list[str] = self.page.evaluate("() => window.words_seen")
        return seen

    def cancel_latency_ms(self) -> float:
        """Clicks Cancel; milliseconds until the page answers."""
        latency: float = self.root.evaluate(
            """card => new Promise(resolve => {
              const words = card.querySelector('.caption .first'), began = performance.now();
              const done = () => words.textContent.startsWith('Cancelling') && resolve(performance.now() - began);
              new MutationObserver(done).observe(words, {childList: true, characterData: true, subtree: true});
              card.querySelector('button.cancel').click();
              done();
            })"""
        )
        return latency

    def violations(self) -> list[str]:
        """What axe finds in this card, as "rule: element"."""
        results = Axe().run(self.page, context=CARD, options={"resultTypes": ["violations"]})
        found: list[dict[str, Any]] = results.response["violations"]
        return [
            f"{v['id']}: {node['html'][:120]} {node['failureSummary']}" for v in found for node in v["nodes"]
        ]

    def screenshot(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root.screenshot(path=folder / f"widget-{name}.png")
