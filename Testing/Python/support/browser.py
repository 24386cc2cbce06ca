"""A real browser without a window, in which pages are tried."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.marks import BROWSER


class Reader:
    """Somebody in front of the review page.

    Args:
        page: Playwright's page.
    """

    def __init__(self, page: Any) -> None:
        self.page = page

    def open(self, address: str) -> None:
        """Load a page, and wait until its first region is drawn."""
        self.page.goto(address)
        self.page.wait_for_selector("#regions li")

    def click(self, plane: int, right: float, down: float) -> None:
        """Click at fractions of a picture's width and height."""
        self.page.mouse.click(*self._at(plane, right, down))

    def draw(self, plane: int, start: tuple[float, float], *way: tuple[float, float]) -> None:
        """Draw from a place of a picture through others."""
        self.page.mouse.move(*self._at(plane, *start))
        self.page.mouse.down()
        for place in way:
            self.page.mouse.move(*self._at(plane, *place), steps=6)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        """Read what an element shows."""
        return str(self.page.inner_text(selector))

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + 60  # Playwright's own waiting evaluates text in the page, which forbids that
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def pixels(self, plane: int) -> str:
        """Take what a picture shows, as text that can be compared."""
        return str(self.page.evaluate(f"document.getElementById('plane-{plane}').toDataURL()"))

    def save(self) -> dict[str, Any]:
        """Save the decisions, and read the file."""
        with self.page.expect_download() as download:
            self.page.click("#save")
        with Path(download.value.path()).open(encoding="utf-8") as file:
            decisions: dict[str, Any] = json.load(file)
        return decisions

    def _at(self, plane: int, right: float, down: float) -> tuple[float, float]:
        box = self.page.locator(f"#plane-{plane}").bounding_box()
        return box["x"] + right * box["width"], box["y"] + down * box["height"]


@contextmanager
def launched() -> Iterator[Any]:
    """Launch Playwright's browser: most of a second, so that one serves a whole file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def reader(browser: Any, tolerated: str = "\0") -> Iterator[Reader]:
    """Open a page that knows nothing of others; whatever goes wrong in it, but for `tolerated`, fails the test."""
    problems: list[str] = []
    with browser.new_context(viewport={"width": 1400, "height": 950}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield Reader(page)
    assert not [problem for problem in problems if tolerated not in problem]
