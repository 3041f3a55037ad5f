"""Write the pictures that the docs show: `python -m tests.page.pictures docs/images`."""

import csv
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser

from benchmarks.texts import read_texts
from deploy.fill_models import DEMO_TASKS
from model_export.export import ExportOptions, export
from tests.page.browser import address, running_chromium
from tests.page.terminal import as_page, run_until
from tests.support import DEMO_CHECKPOINT, ServerProcess, serving

SHOWN_URL: Final = "http://localhost:8000"
"""Where the docs have the server, which is at a free port."""
SCHEMES: Final[tuple[tuple[str, Literal["light", "dark"]], ...]] = (("", "light"), ("-dark", "dark"))
COMMAND: Final = (
    "python -m app predict --model models/sentiment --input reviews.csv --column text --output scored.jsonl"
)
EXPLAINED: Final = "A dull story, saved by a great actor."
"""The text whose explanation is shown."""
SHOWN_AT: Final = r"6\d% \|[^\r]* left"
"""What the progress bar shows in the picture."""


def main(folder: Path) -> None:
    """Ask the demo's masked-token model, explain a label of its classifier, and predict a file, in both colour schemes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary) / "models"
        for name, task in DEMO_TASKS.items():
            export(ExportOptions(str(DEMO_CHECKPOINT), models / name, task, ("cpu-fp32",)), lambda _: None)
        with (Path(temporary) / "reviews.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["id", "text"], *enumerate(read_texts("reviews") * 5)])
        screen = [f"$ {COMMAND}", *run_until([sys.executable, *COMMAND.split()[1:]], Path(temporary), SHOWN_AT)]
        with serving(models) as server, running_chromium() as browser:
            for suffix, scheme in SCHEMES:
                take(browser, server, folder / f"page{suffix}.png", scheme)
                explain(browser, server, folder / f"explain{suffix}.png", scheme)
                page = browser.new_page()
                page.set_content(as_page(screen, scheme))
                page.locator("pre").screenshot(path=folder / f"predict{suffix}.png")
                page.close()


def explain(browser: Browser, server: ServerProcess, path: Path, scheme: Literal["light", "dark"]) -> None:
    """Write a picture of an explanation."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    page.goto(address(server.url, "sentiment", "explain"))
    page.get_by_label("Text", exact=True).fill(EXPLAINED)
    page.get_by_label("Method").select_option("shapley")
    page.get_by_role("button", name="Run").press("Enter")
    page.locator("#json").wait_for()
    page.locator("#result").screenshot(path=path)
    page.close()


def take(browser: Browser, server: ServerProcess, path: Path, scheme: Literal["light", "dark"]) -> None:
    """Write a picture of the page with its example answered."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    page.goto(address(server.url, "masked-token", "fill-mask"))
    for _ in range(3):  # the first answer takes longer than those after it
        with page.expect_response("**/v1/fill-mask"):
            page.get_by_role("button", name="Run").press("Enter")
        page.locator("#json").wait_for()
    for shown in page.locator("#request pre").all():
        shown.evaluate(
            "(shown, [from, to]) => { shown.textContent = shown.textContent.replace(from, to) }",
            [server.url, SHOWN_URL],
        )
    page.get_by_role("heading", level=1).click()  # and nothing has the focus
    page.screenshot(path=path, full_page=True)
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
