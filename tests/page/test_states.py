"""What a person is told while the service loads, refuses, is busy, or is gone, and of the API key."""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import BundleOf
from tests.e2e.conftest import Device, serving_faulty
from tests.page.browser import Visit, address, answer, choose, field, run, run_shown
from tests.support import ServerProcess, eventually, is_alive, serving

KEY = 's3cret "Zw\u0151bel" o\'$HOME\\'
WRONG = [
    ("sentiment", "classify", "Text", ""),
    ("masked", "fill-mask", "Text", "Nothing to fill."),
    ("masked", "fill-mask", "Words for each mask", "0"),
    ("entailment", "zero-shot", "Text", ""),
    ("entailment", "zero-shot", "Labels, one a line or with commas between", "long " * 50),
    ("questions", "answer", "Question", ""),
    ("questions", "answer", "Context", ""),
    ("sequels", "next-sentence", "Second text", ""),
    ("vectors", "similarity", "Compare with, one text a line", ""),
    ("ranker", "rerank", "Query", ""),
]
"""Models, tasks, and what a field must not hold."""


@pytest.fixture
def sentiment(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-single-label")


def press_run(page: Page) -> None:
    page.get_by_role("button", name="Run").click()


def test_a_request_made_while_the_models_load_is_answered_when_they_are_ready(
    visit: Visit, device: Device, sentiment: Path
) -> None:
    device.hold()
    with serving_faulty(sentiment, device, wait=False) as server:
        eventually(lambda: is_alive(server))
        page = visit(server.url)
        expect(page.locator("#notice")).to_contain_text("The models are loading")
        expect(page.get_by_label("Model")).to_contain_text("(loading)")
        press_run(page)
        expect(page.locator("#status")).to_contain_text("Asking again")
        device.release()
        assert answer(page)["model"] == sentiment.name
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.get_by_label("Model")).not_to_contain_text("(loading)")


def test_a_key_can_be_forgotten_while_the_models_load(visit: Visit, device: Device, sentiment: Path) -> None:
    device.hold()
    with serving_faulty(sentiment, device, wait=False, BERT_API_KEY=KEY) as server:
        eventually(lambda: is_alive(server))
        page = visit(server.url)
        page.clock.install()
        page.reload()
        given = field(page, "Key")
        given.fill(KEY)
        given.press("Enter")
        expect(page.locator("#notice")).to_contain_text("The models are loading")
        page.get_by_role("button", name="Forget the key").click()
        given.fill("half of")
        page.clock.run_for(5000)  # the page would ask again
        page.evaluate("fetch('v1/models').then(() => fetch('v1/models'))")  # which the server answers after that
        expect(given).to_have_value("half of")
        device.release()


def test_a_server_that_is_slow_is_waited_for_visibly(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    asked: list[Route] = []

    def hold(route: Route) -> None:
        asked.append(route)

    page.route("**/openapi.json", hold)
    page.reload()
    notice = page.get_by_text("Asking the server which models it has\u2026")
    expect(notice).to_be_visible()
    eventually(lambda: page.title() and asked)  # Playwright calls back while it waits for something
    asked[0].continue_()
    expect(notice).to_be_hidden()
    run(page)


def test_a_model_that_cannot_be_loaded_is_named_and_not_waited_for(
    visit: Visit, tmp_path: Path, bundle_of: BundleOf, sentiment: Path
) -> None:
    shutil.copytree(bundle_of("bert-fill-mask"), tmp_path / "broken")
    (tmp_path / "broken" / "cpu-fp32.onnx").unlink()
    (tmp_path / "whole").symlink_to(sentiment)
    with serving(tmp_path, "--threads", "1", "--skip-bad-bundles") as server:
        page = visit(server.url)
        expect(page.locator("#notice")).to_have_text("Not loaded: broken. The log of the service says why.")
        run(page)


def test_a_request_that_takes_long_can_be_cancelled(visit: Visit, device: Device, sentiment: Path) -> None:
    with serving_faulty(sentiment, device) as server:
        page = visit(server.url)
        by_key: Callable[[], None] = partial(page.keyboard.press, "Escape")
        by_button: Callable[[], None] = page.get_by_role("button", name="Cancel").click
        for cancel in (by_key, by_button):
            device.hold()
            press_run(page)
            expect(page.locator("#elapsed")).to_be_visible()
            expect(page.get_by_role("region", name="Answer")).to_have_attribute("aria-busy", "true")
            press_run(page)  # does not ask twice
            eventually(lambda: server.metric("bert_inflight_requests") == 1)
            cancel()
            expect(page.locator("#status")).to_have_text("Cancelled.")
            expect(page.locator("#elapsed")).to_be_hidden()
            eventually(lambda: server.metric("bert_inflight_requests") == 0)
            device.release()
        assert page.evaluate("document.activeElement.textContent") == "Run"  # not lost with the button that is hidden
        run(page)


def test_a_busy_service_says_when_to_try_again(visit: Visit, device: Device, sentiment: Path) -> None:
    limits = ("--max-queue-s", "0.0001", "--batch-tokens", "64")
    with ThreadPoolExecutor(1) as threads, serving_faulty(sentiment, device, *limits) as server:
        page = visit(server.url)
        device.hold()
        bulk = threads.submit(server.post, "/v1/classify", {"inputs": ["The cat sat on the mat."] * 512})
        eventually(lambda: server.metric("bert_queue_sequences") > 0)
        press_run(page)
        problem = page.locator("#problem")
        expect(problem).to_have_text(re.compile(r"Retry-After.* Try again in [1-9]\d* s\.$"))
        device.release()
        assert bulk.result().status == 200
        run(page)
        expect(problem).to_be_hidden()


def test_a_refusal_stands_beside_its_field(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    for model, task, label, text in WRONG:
        choose(page, server.url, model, task)
        wrong = field(page, label)
        wrong.fill(text)
        with page.expect_response("**/v1/*") as refused:
            press_run(page)
        assert refused.value.status == 422
        expect(wrong).to_be_focused()
        expect(wrong).to_have_accessible_description(refused.value.json()["error"])
        expect(page.locator("[aria-invalid=true]")).to_have_count(1)
        wrong.fill("1")
        expect(page.locator("[aria-invalid]:visible")).to_have_count(0)


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, "<h1>Bad gateway</h1>"), (429, '{"error": {"message": "Too many requests"}}'), (200, "<h1>Sign in</h1>")],
)
def test_a_proxy_that_answers_itself_is_not_taken_for_the_service(
    server: ServerProcess, visit: Visit, status: int, body: str
) -> None:
    page = visit(server.url)
    page.route("**/v1/classify", lambda route: route.fulfill(status=status, body=body))
    press_run(page)
    expect(page.locator("#problem")).to_have_text(
        f"What answers is not this service (status {status}). Is it behind a proxy that cannot reach it?"
    )


def test_a_refusal_of_the_whole_request_is_shown_with_the_answer(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "entailment", "zero-shot"))
    field(page, "Labels, one a line or with commas between").fill("a," * 513)
    press_run(page)
    expect(page.locator("#problem")).to_contain_text("BERT_MAX_INPUTS")


def test_a_server_that_is_gone_is_told_of_and_one_with_other_models_is_used(
    visit: Visit, bundle_of: BundleOf, sentiment: Path
) -> None:
    with serving(sentiment, "--threads", "1") as server:
        page = visit(server.url)
        run(page)
        assert server.stop() == 0
        press_run(page)
        expect(page.locator("#problem")).to_contain_text("The server does not answer")
    with serving(bundle_of("bert-embed"), "--threads", "1", "--port", str(urlsplit(server.url).port)):
        press_run(page)
        expect(page.locator("#status")).to_contain_text("not served here")
        expect(page.get_by_role("radio", name="embed")).to_be_checked()
        expect(field(page, "Text")).to_have_value("How do I get to the station?")  # the example of the other model
        run(page)


def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(visit: Visit, sentiment: Path, tmp_path: Path) -> None:
    with serving(sentiment, "--threads", "1", BERT_API_KEY=KEY) as server:
        page = visit(server.url)
        given = field(page, "Key")
        expect(given).to_be_focused()
        expect(given).to_have_attribute("type", "password")
        expect(page.get_by_label("Model")).to_be_hidden()
        for wrong in ("wrong", "falsch \u2603"):
            given.fill(wrong)
            given.press("Enter")
            expect(page.get_by_role("alert")).to_have_text("That is not the key of this service.")
        given.fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_label("Model")).to_be_focused()
        shown = run(page)
        assert run_shown(page, tmp_path, BERT_API_KEY=KEY) == [shown] * 2
        assert "s3cret" not in page.content()
        assert page.evaluate("[JSON.stringify(localStorage), document.cookie]") == ["{}", ""]
        page.reload()
        run(page)
        page.evaluate("keep('a key from before the server was started again')")
        field(page, "Text").fill("My own text.")
        press_run(page)
        expect(page.get_by_role("alert")).to_have_text("That is not the key of this service.")
        given.fill(KEY)
        given.press("Enter")
        expect(field(page, "Text")).to_have_value("My own text.")
        run(page)
        other = visit(server.url)
        expect(field(other, "Key")).to_be_visible()
        page.get_by_role("button", name="Forget the key").click()
        expect(given).to_be_focused()
        expect(page.locator("#work")).to_be_hidden()
        assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"
        page.reload()
        expect(given).to_be_visible()
        assert server.stop() == 0
        assert "s3cret" not in server.log


def test_a_browser_that_keeps_nothing_can_show_the_page(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    page.add_init_script("Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException() } })")
    page.reload()
    run(page)


def test_an_address_may_have_a_user_and_a_password(server: ServerProcess, visit: Visit) -> None:
    """As a proxy asks for them that stands before the service."""
    page = visit(server.url)
    page.goto(server.url.replace("//", "//user:password@"))
    run(page)
    expect(page.locator("#request")).not_to_contain_text("password")


def test_everything_is_asked_below_the_path_that_the_page_is_at(server: ServerProcess, visit: Visit) -> None:
    for path in ("/bert", "/bert/"):
        page = visit(server.url + path)
        with page.expect_response("**/v1/classify") as asked:
            run(page)
        assert asked.value.url == f"{server.url}/bert/v1/classify"
        expect(page.locator("#curl")).to_contain_text(f"{server.url}/bert/v1/classify")
        expect(page.get_by_role("link", name="API docs")).to_have_js_property("href", f"{server.url}/bert/docs")
