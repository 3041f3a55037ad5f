"""A real Chromium, and what a person does with the page in it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.support import HAPPEN_WITHIN_S

QUIET: Final = [
    "--no-sandbox",  # containers run the tests as root, for whom Chromium has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""What keeps Chromium from asking anything but the page's server."""
NETWORK: Final = "Failed to load resource"
"""How Chromium's console begins to tell of an answer that is an error, which a test wanted."""

expect.set_options(timeout=1000 * HAPPEN_WITHIN_S)

Visit = Callable[..., Page]
"""Open an address in a context of its own, which the options are of."""


def find_chromium() -> str:
    """Return the path of Chromium; without it, skip the test, or fail it in CI."""
    if found := shutil.which("chromium"):
        return found
    missing = "chromium is not here: apt-get install chromium, or tests/page/install-chromium.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Run Chromium without a window and with a profile of its own, which is removed at the end."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


def address(url: str, model: str, task: str) -> str:
    """Return the address of the page with a model and a task chosen."""
    return f"{url}/#{urlencode({'model': model, 'task': task})}"


def choose(page: Page, url: str, model: str, task: str) -> None:
    """Follow a link to a model and a task on a page that is open already."""
    page.goto(address(url, model, task))
    expect(page.get_by_label("Model")).to_have_value(model)
    expect(page.locator(f"#tasks input[value={task}]")).to_be_checked()


def watch(page: Page, url: str) -> list[str]:
    """Return a list that gets what must not happen: messages of the console, errors, requests to another origin."""
    faults: list[str] = []

    def origin(url: str) -> tuple[str, str | None, int | None]:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port

    def requested(asked: str) -> None:
        if origin(asked) != origin(url) and not asked.startswith("data:"):
            faults.append(asked)

    page.on("console", lambda message: None if message.text.startswith(NETWORK) else faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requested(request.url))
    return faults


def run(page: Page) -> Any:
    """Press the button, wait for the answer and return its JSON."""
    page.get_by_role("button", name="Run").click()
    return answer(page)


def answer(page: Page) -> Any:
    """Return the JSON of the answer that is shown, once there is one."""
    shown = page.locator("#json")
    expect(shown).to_be_visible()
    if shown.get_attribute("open") is None:
        shown.locator("summary").click()
    expect(shown.locator("pre")).not_to_be_empty()
    return json.loads(shown.locator("pre").inner_text())


def rows(page: Page) -> list[tuple[str, str]]:
    """Return the rows of the answer that can be seen: label and number."""
    found: list[tuple[str, str]] = []
    for row in page.locator("#answer .row:visible").all():
        label, number = row.locator("> span:not(.meter)").all_inner_texts()
        found.append((label, number))
    return found


def field(page: Page, label: str) -> Locator:
    """Return a field by its label."""
    return page.get_by_label(label, exact=True)


def run_shown(page: Page, folder: Path, **environment: str) -> list[Any]:
    """Run what the page shows in a folder; return the answer of curl in a plain shell, and that of Python."""
    curl = page.locator("#curl").text_content() or ""
    python = page.locator("#python").text_content() or ""
    commands = [["sh", "-c", curl.replace("curl ", "curl --silent --show-error ", 1)], [sys.executable, "-c", python]]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BERT_")}
    return [
        json.loads(
            subprocess.run(one, cwd=folder, env=clean | environment, capture_output=True, check=True, timeout=30).stdout
        )
        for one in commands
    ]
