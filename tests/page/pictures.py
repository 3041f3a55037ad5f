"""Write the pictures of the page that the docs show: `python -m tests.page.pictures docs/images`."""

import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser

from model_export.export import ExportOptions, export
from tests.page.browser import address, running_chromium
from tests.support import DEMO_CHECKPOINT, ServerProcess, serving

MODELS: Final = {"sentiment": "classify", "masked-token": "fill-mask"}
"""The models that `make serve` serves, and the task of each."""
SHOWN_URL: Final = "http://localhost:8000"
"""Where the docs have the server, which is at a free port."""
SCHEMES: Final[tuple[tuple[str, Literal["light", "dark"]], ...]] = (("page.png", "light"), ("page-dark.png", "dark"))


def main(folder: Path) -> None:
    """Ask the demo's masked-token model in both colour schemes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary)
        for name, task in MODELS.items():
            export(ExportOptions(str(DEMO_CHECKPOINT), models / name, task, ("cpu-fp32",)), lambda _: None)
        with serving(models) as server, running_chromium() as browser:
            for name, scheme in SCHEMES:
                take(browser, server, folder / name, scheme)


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
