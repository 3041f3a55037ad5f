"""The page can be read and used in both colour schemes, at any width, with the keyboard alone, and by those who do not see it."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from app.http.page import FILE
from tests.page.browser import Visit, address, answer, choose, field, run
from tests.support import ServerProcess

TASKS = [
    ("entailment", "zero-shot"),
    ("masked", "fill-mask"),
    ("names", "entities"),
    ("questions", "answer"),
    ("vectors", "embed"),
    ("ranker", "rerank"),
]


def test_axe_finds_no_fault(server: ServerProcess, visit: Visit) -> None:
    """Names, roles and structure, and in both colour schemes a contrast of 4.5 for every text that is shown."""
    page = visit(server.url)

    def check() -> None:
        page.emulate_media(color_scheme="light")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.emulate_media(color_scheme="dark")
        found = Axe().run(page, options={"runOnly": ["color-contrast"]})
        assert found.violations_count == 0, found.generate_report()

    for model, task in TASKS:
        choose(page, server.url, model, task)
        run(page)
        check()
    field(page, "Query").fill("")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("[aria-invalid=true]")).to_be_visible()
    check()


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_edges_of_controls_and_meters_can_be_seen(scheme: int) -> None:
    """WCAG 2.2, 1.4.11: 3 to 1, which axe does not look at."""
    block = re.findall(r":root \{(.*?)\}", FILE.read_text(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    for edge, ground in (
        ("edge", "page"),
        ("edge", "paper"),
        ("accent", "page"),
        ("accent", "line"),
        ("error", "page"),
    ):
        assert contrast(colours[edge], colours[ground]) >= 3, (edge, ground)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_nothing_scrolls_sideways(server: ServerProcess, visit: Visit) -> None:
    """A window of 1280 at a zoom of 200% is as wide as one of 640."""
    page = visit(server.url)
    for model, task in TASKS:
        choose(page, server.url, model, task)
        if task == "rerank":
            field(page, "Texts, one a line").fill("https://example.org/" + "long" * 50 + "\nshort")
        run(page)
        for width in (320, 390, 640, 1440):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (task, width)


def focused(page: Page) -> str:
    """Return what has the focus, and see that this can be seen."""
    element = page.locator(":focus")
    assert element.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    return str(element.evaluate("element => element.labels?.[0]?.textContent || element.textContent"))


def test_the_keyboard_is_enough(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "masked", "fill-mask"))
    expect(field(page, "Text")).to_be_visible()
    page.keyboard.press("Tab")
    assert focused(page) == "API docs"
    page.keyboard.press("Tab")
    assert focused(page) == "Model"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(focused(page))
    assert stops == ["fill-mask", "Insert [MASK]", "Text", "Words for each mask", "Run"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer .row")).to_have_count(5)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#answer [aria-pressed=true]")).to_be_focused()
    expect(page.locator("#answer .row").nth(1)).to_have_attribute("aria-pressed", "true")
    focused(page)
    answer(page)


def test_what_can_be_used_has_a_role_and_a_name(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "vectors", "similarity"))
    run(page)
    expect(page.locator("body")).to_match_aria_snapshot("""
        - banner:
          - heading "BERT inference service" [level=1]
          - navigation "Service":
            - link "API docs"
        - main:
          - form "Request":
            - heading "Request" [level=2]
            - combobox "Model"
            - group "Task":
              - radio "embed"
              - radio "similarity" [checked]
            - textbox "Text": How do I get to the station?
            - textbox "Compare with, one text a line"
            - button "Run"
          - region "Answer":
            - heading "Answer" [level=2]
            - status: /round trip/
            - list:
              - listitem: /Where do the trains leave/
              - listitem: /I had soup/
          - region "The same request as code":
            - button "Copy curl"
            - button "Copy Python"
    """)


def test_bars_are_drawn_where_the_browser_has_its_own_colours(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url, forced_colors="active")
    run(page)
    for bar in page.locator("#answer .meter > i").all():
        assert bar.evaluate("bar => getComputedStyle(bar).backgroundColor") == page.evaluate(
            "getComputedStyle(document.body).color"
        )


def test_a_text_begins_at_the_side_where_its_writing_begins(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "names", "entities"))
    field(page, "Text").fill("\u0630\u0647\u0628\u062a Ada \u0625\u0644\u0649 London.")
    run(page)
    text = page.locator("#answer .text")
    box, first = text.bounding_box(), text.locator("mark").first.bounding_box()
    assert box
    assert first
    assert first["x"] + first["width"] == pytest.approx(box["x"] + box["width"], abs=2)


def test_nothing_moves_for_those_who_do_not_want_that(server: ServerProcess, visit: Visit) -> None:
    for motion, animation in (("no-preference", "pass"), ("reduce", "none")):
        page = visit(server.url, reduced_motion=motion)
        style = "getComputedStyle(document.getElementById('line'), '::before').animationName"
        assert page.evaluate(style) == animation
