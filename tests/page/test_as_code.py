"""The curl command and the Python lines that the page shows ask what the page asks, whatever the text."""

import re
from pathlib import Path

from playwright.sync_api import expect

from tests.page.browser import Visit, address, choose, field, run, run_shown
from tests.support import ServerProcess

FORMS = [
    ("entailment", "zero-shot"),
    ("masked", "fill-mask"),
    ("questions", "answer"),
    ("ranker", "rerank"),
    ("sequels", "next-sentence"),
]
HARD = [
    """It's "quoted" 'twice' `date` $HOME ${HOME} $(date) !! \\ \\' \\n %s #{x} ~ * ? [a] <b> & ; | > /dev/null""",
    "two lines\n\n\tand a tab\r\nend\\",
    "caf\u00e9 \u6771\u4eac \U0001f469\u200d\U0001f52c \u202eright to left\u202c \u2028 \u2029 \u0085 \u00a0 \ufeff \x7f \x01",
    "@file {{}} {0} %(x)s \"\"\" ''' -d --help '",
]
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")
"""What a terminal would act on, and what changes the order in which characters are shown."""


def test_any_text_is_asked_for_as_it_is(server: ServerProcess, visit: Visit, tmp_path: Path) -> None:
    page = visit(address(server.url, "vectors", "embed"))  # an embedding differs with every token
    for text in HARD:
        field(page, "Text").fill(text)
        shown = run(page)
        assert run_shown(page, tmp_path) == [shown] * 2, text
        assert not CONTROLS.search(page.locator("#request").inner_text())


def test_every_form_of_request_is_shown(server: ServerProcess, visit: Visit, tmp_path: Path) -> None:
    page = visit(server.url)
    for model, task in FORMS:
        choose(page, server.url, model, task)
        if task == "zero-shot":
            field(page, "Several labels may be right").check()  # true is True in Python
        shown = run(page)
        assert run_shown(page, tmp_path) == [shown] * 2, task


def test_a_body_that_is_too_long_for_a_command_line_comes_from_a_file(
    server: ServerProcess, visit: Visit, tmp_path: Path
) -> None:
    page = visit(address(server.url, "sentiment", "classify"))
    text = field(page, "Text")
    longest = "\u6771" * (page.evaluate("LONGEST") - len('{"model":"sentiment","inputs":""}'))  # of three bytes each
    text.fill(longest)
    shown = run(page)
    expect(page.locator("#long")).to_be_hidden()
    assert run_shown(page, tmp_path) == [shown] * 2
    text.fill(f"{longest}.")
    expect(page.locator("#long")).to_be_visible()
    shown = run(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save request.json").click()
    saved.value.save_as(tmp_path / saved.value.suggested_filename)
    assert run_shown(page, tmp_path) == [shown] * 2
