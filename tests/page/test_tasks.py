"""A person sees what the server answers, for every task."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.tasks import TASKS
from tests.page.browser import Visit, address, answer, choose, field, rows, run, run_shown
from tests.support import ServerProcess

MARKUP = '<img src=x onerror="document.title = 1"><b>bold</b>'
EMOJI = "\U0001f600 Ada \U0001f469\u200d\U0001f52c Lovelace, in L\u00f6ndon\U0001f1ec\U0001f1e7."


def percent(score: float) -> str:
    """What a score is shown as, if it does not round to none or all."""
    return f"{100 * score:.1f}%"


def marks(page: Page) -> list[str]:
    """Return the marked parts of the answer's text, without their labels."""
    return page.locator("#answer mark").evaluate_all("marks => marks.map(mark => mark.firstChild.textContent)")


def test_every_task_of_the_server_is_drawn(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    assert set(page.evaluate("Object.keys(TASKS)")) == set(TASKS)


def test_every_model_answers_its_example_in_each_of_its_tasks(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    paths = server.ask("GET", "/openapi.json").json["paths"]
    for card in server.ask("GET", "/v1/models").json["models"]:
        page.get_by_label("Model").select_option(card["name"])
        for task in card["tasks"]:
            if len(card["tasks"]) > 1:
                page.get_by_role("radio", name=task, exact=True).check()
            content = paths[f"/v1/{task}"]["post"]["requestBody"]["content"]["application/json"]
            asked = content["examples"][card["name"]]["value"]
            if task == "embed":  # of its texts, the page has the first
                asked["inputs"] = asked["inputs"][0]
            elif task == "answer":
                asked["parameters"] = {"top_k": 3}
            elif task == "explain":
                asked["parameters"] = {"method": "occlusion"}
            shown = run(page)
            assert shown == server.post(f"/v1/{task}", asked).json
            expect(page.locator("#status")).to_contain_text(f"{shown['usage']['tokens']} tokens")


def test_labels_are_shown_best_first_with_their_shares(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sentiment", "classify"))
    field(page, "Text").fill("The cat sat on the mat.")
    field(page, "Second text").fill("It was warm.")
    [labels] = run(page)["predictions"]
    assert rows(page) == [(one["label"], percent(one["score"])) for one in labels]
    pair = {"text": "The cat sat on the mat.", "text_pair": "It was warm."}
    asked = {"model": "sentiment", "inputs": pair}
    assert labels == server.post("/v1/classify", asked).json["predictions"][0]
    widths = page.locator("#answer .meter > i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * one["score"] for one in labels], abs=1e-3)  # CSS keeps so many digits


def test_numbers_and_independent_labels_are_no_shares_of_a_whole(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "stars", "classify"))  # a regression
    [[one]] = run(page)["predictions"]
    assert rows(page) == [(one["label"], f"{one['score']:.4f}")]
    expect(page.locator("#answer .meter")).to_have_count(0)
    choose(page, server.url, "toxicity", "classify")
    run(page)
    expect(page.locator("#answer")).to_contain_text("several may apply")
    shown = page.evaluate("[0, 1e-9, 0.0005, 0.5, 0.9994, 0.99951, 1].map(percent)")
    assert shown == ["0.0%", "<0.1%", "0.1%", "50.0%", "99.9%", ">99.9%", "100.0%"]


def test_hundreds_of_labels_are_shown_when_asked_for(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "entailment", "zero-shot"))
    field(page, "Labels, one a line or with commas between").fill(", ".join(f"label {i}" for i in range(300)))
    [labels] = run(page)["predictions"]
    assert len(rows(page)) == 10
    page.get_by_role("button", name="Show all 300").click()
    assert page.locator("#answer .row:visible").count() == len(labels) == 300
    page.get_by_role("button", name="Show the first 10").click()
    assert [label for label, _ in rows(page)] == [one["label"] for one in labels[:10]]


def test_several_labels_may_be_right(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "entailment", "zero-shot"))
    field(page, "Several labels may be right").check()
    shown = run(page)
    asked = {"inputs": "The train leaves at nine.", "parameters": {"candidate_labels": ["travel", "cooking", "sport"]}}
    asked["parameters"]["multi_label"] = True  # type: ignore[index]
    assert shown["predictions"] == server.post("/v1/zero-shot", {"model": "entailment", **asked}).json["predictions"]


def test_masks_are_inserted_and_filled_with_what_is_chosen(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "masked", "fill-mask"))
    text = field(page, "Text")
    text.fill("The  on the .")
    for at in (4, len("The [MASK] on the ")):
        text.evaluate("(text, at) => text.setSelectionRange(at, at)", at)
        page.get_by_role("button", name="Insert [MASK]").click()
    expect(text).to_have_value("The [MASK] on the [MASK].")
    expect(text).to_be_focused()
    [masks] = run(page)["predictions"]
    first, second = ([one["token_str"].removeprefix("##") for one in mask] for mask in masks)
    assert page.locator("#answer .text").inner_text() == f"The {first[0]} on the {second[0]}."
    page.locator("#answer .rows").nth(1).get_by_role("button").nth(2).click()
    assert page.locator("#answer .text").inner_text() == f"The {first[0]} on the {second[2]}."
    pressed = page.locator("#answer [aria-pressed=true]").all_inner_texts()
    assert [one.split("\n")[0] for one in pressed] == [masks[0][0]["token_str"], masks[1][2]["token_str"]]


def test_entities_are_marked_where_they_are_with_their_labels(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "names", "entities"))
    field(page, "Text").fill(EMOJI)
    [entities] = run(page)["predictions"]
    assert entities
    assert max(one["end"] for one in entities) > len("\U0001f600 Ada \U0001f469\u200d\U0001f52c")
    assert [EMOJI[one["start"] : one["end"]] for one in entities] == marks(page)
    tags = page.locator("#answer mark .tag").all_inner_texts()
    assert tags == [one["entity_group"] for one in entities]
    shown = page.locator("#answer .text").evaluate(
        "text => { text = text.cloneNode(true); text.querySelectorAll('.tag').forEach(tag => tag.remove()); return text.textContent; }"
    )
    assert shown == EMOJI


def test_spans_may_overlap_and_touch(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    spans = [
        {"start": 0, "end": 3, "label": "A"},
        {"start": 2, "end": 5, "label": "B"},
        {"start": 5, "end": 6, "label": "C"},
    ]
    drawn: Any = page.evaluate(
        "spans => [...marked('\U0001f600bcdefg', spans).childNodes].map(node => [node.nodeName, node.textContent, node.className])",
        spans,
    )
    assert drawn == [
        ["MARK", "\U0001f600b", ""],
        ["MARK", "cA", "twice"],
        ["MARK", "deB", ""],
        ["MARK", "fC", ""],
        ["#text", "g", None],
    ]


def test_answers_are_marked_in_their_context(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "questions", "answer"))
    context = EMOJI * 3
    field(page, "Context").fill(context)
    [answers] = run(page)["predictions"]
    assert len(answers) == 3
    for i, one in enumerate(answers):
        page.locator("#answer .rows button").nth(i).click()
        expect(page.locator("#answer mark")).to_have_text(context[one["start"] : one["end"]])


def test_the_next_sentence_has_both_probabilities(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sequels", "next-sentence"))
    [one] = run(page)["predictions"]
    assert [number for _, number in rows(page)] == [percent(one["score"]), percent(1 - one["score"])]


def weighed(page: Page) -> list[tuple[str, str]]:
    """Return the coloured parts of the text, with what each does to the score."""
    return page.locator("#answer .text span").evaluate_all("all => all.map(one => [one.textContent, one.className])")


def test_an_explanation_colours_the_words_and_lists_them(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sentiment", "explain"))
    text = f"The cat sat on the mat. {EMOJI}"
    field(page, "Text").fill(text)
    [found] = run(page)["predictions"]
    words = found["contributions"]
    largest = max(abs(found["remainder"]), *(abs(one["contribution"]) for one in words))
    expected = [one for one in words if abs(one["contribution"]) >= 0.05 * largest]
    assert [word for word, _ in weighed(page)] == [one["word"] for one in expected]
    assert [kind for _, kind in weighed(page)] == ["adds" if one["contribution"] > 0 else "takes" for one in expected]
    assert page.locator("#answer .text").evaluate("one => one.textContent") == text
    best = max(words, key=lambda one: abs(one["contribution"]))
    shown = [("no single word", found["remainder"])] if abs(found["remainder"]) > 0.05 * largest else []
    shown.append((best["word"], best["contribution"]))
    assert rows(page)[: len(shown)] == [(name, f"{value:+.4f}".replace("-", "\u2212")) for name, value in shown]
    expect(page.locator("#answer")).to_contain_text(f"The score of {found['target']} is {found['score']:.4f}")
    expect(page.locator("#answer")).to_contain_text(f"The model ran {found['runs']} times")


def test_what_adds_and_what_takes_differ_without_colours(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sentiment", "explain"))
    run(page)
    page.emulate_media(forced_colors="active")
    lines = [
        page.locator(f"#answer .legend .{kind}").evaluate("one => getComputedStyle(one).borderBottomStyle")
        for kind in ("adds", "takes")
    ]
    assert lines == ["solid", "dashed"]
    assert page.locator("#answer .legend").inner_text().split() == [
        *page.locator("#answer .legend .adds").inner_text().split(), "adds", "to", "it",
        *page.locator("#answer .legend .takes").inner_text().split(), "takes", "from", "it",
    ]  # fmt: skip


def test_a_pair_is_explained_with_both_texts_and_each_words_error(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sentiment", "explain"))
    field(page, "Text").fill("The cat sat on the mat.")
    field(page, "Second text").fill("It was warm there.")
    page.get_by_label("Method").select_option("shapley")
    shown = run(page)
    assert page.locator("#answer .text").all_inner_texts() == ["The cat sat on the mat.", "It was warm there."]
    errors = {one["word"]: one["standard_error"] for one in shown["predictions"][0]["contributions"]}
    word, value = rows(page)[0]
    assert value.endswith(f" \u00b1 {errors[word]:.4f}")


def test_an_answer_leads_to_its_explanation(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sentiment", "classify"))
    field(page, "Text").fill("The cat sat.")
    field(page, "Second text").fill("It was warm.")
    [[best, *_]] = run(page)["predictions"]
    page.get_by_role("button", name="Which words made this?").click()
    expect(page.locator("#answer")).to_contain_text(f"The score of {best['label']} is {best['score']:.4f}")
    assert page.locator("#answer .text").all_inner_texts() == ["The cat sat.", "It was warm."]
    assert page.url.endswith("#model=sentiment&task=explain")
    expect(page.get_by_role("button", name="Run")).to_be_focused()


def test_a_second_text_is_asked_for_only_where_there_may_be_one(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "masked", "explain"))
    expect(field(page, "Text")).to_be_visible()
    expect(page.get_by_label("Second text")).to_have_count(0)
    run(page)
    choose(page, server.url, "sentiment", "explain")
    expect(page.get_by_label("Second text")).to_be_visible()


@pytest.mark.parametrize("clipboard", ["navigator.clipboard", "undefined"], ids=["secure", "plain HTTP"])
def test_an_embedding_is_measured_and_copied_whole(server: ServerProcess, visit: Visit, clipboard: str) -> None:
    page = visit(address(server.url, "vectors", "embed"), permissions=["clipboard-write"])
    page.evaluate(f"Object.defineProperty(navigator, 'clipboard', {{ value: {clipboard} }})")
    [vector] = run(page)["predictions"]
    dimensions, norm, _ = page.locator("#answer dd").all_inner_texts()
    assert int(dimensions) == len(vector)
    assert float(norm) == pytest.approx(sum(one * one for one in vector) ** 0.5, abs=5e-5)  # four digits are shown
    assert page.get_by_role("img").count() == 1
    page.get_by_role("button", name="Copy all numbers").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    field(page, "Text").fill("")
    field(page, "Text").press("Control+V")
    assert json.loads(field(page, "Text").input_value()) == vector


@pytest.mark.parametrize(
    ("model", "task", "label"),
    [("vectors", "similarity", "Compare with, one text a line"), ("ranker", "rerank", "Texts, one a line")],
)
def test_the_nearest_texts_come_first(server: ServerProcess, visit: Visit, model: str, task: str, label: str) -> None:
    page = visit(address(server.url, model, task))
    texts = ["The cat sat on the mat.", "It rained.", "Ada lived in London.", "A dog."]
    field(page, label).fill("\n\n".join(texts))
    [prediction] = run(page)["predictions"]
    scores = {one["index"]: one["score"] for one in prediction} if task == "rerank" else dict(enumerate(prediction))
    best = sorted(scores, key=lambda i: scores[i], reverse=True)
    assert rows(page) == [(texts[i], f"{scores[i]:.4f}") for i in best]
    assert all(float(one) >= float(other) for (_, one), (_, other) in pairwise(rows(page)))


def test_a_task_that_the_page_does_not_know_is_asked_in_json(
    server: ServerProcess, visit: Visit, tmp_path: Path
) -> None:
    page = visit(address(server.url, "stars", "classify"))
    expect(field(page, "Text")).to_be_visible()
    page.evaluate("delete TASKS.classify")
    page.get_by_label("Model").select_option("sentiment")
    body = {"model": "sentiment", "inputs": ["one", "two"], "parameters": {"top_k": None, "truncation": False}}
    field(page, "Request as JSON").fill(json.dumps(body))
    shown = run(page)
    assert len(shown["predictions"]) == 2
    assert run_shown(page, tmp_path) == [shown] * 2
    field(page, "Request as JSON").fill("{")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#fields .error")).to_contain_text("This is not JSON")


def test_markup_in_texts_and_labels_stays_text(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "entailment", "zero-shot"))
    field(page, "Labels, one a line or with commas between").fill("<b>x</b>")
    run(page)
    assert [label for label, _ in rows(page)] == ["<b>x</b>"]
    texts = [MARKUP, "</script><script>document.title = 2</script>", "<style>body { display: none }</style>"]
    choose(page, server.url, "vectors", "similarity")
    field(page, "Compare with, one text a line").fill("\n".join(texts))
    run(page)
    assert sorted(label for label, _ in rows(page)) == sorted(texts)
    choose(page, server.url, "questions", "answer")
    field(page, "Context").fill(MARKUP)
    run(page)
    assert page.locator("#answer .text").inner_text() == MARKUP
    assert page.locator("img, #answer b, #answer script, #answer style").count() == 0
    assert page.title() == "BERT inference service"


def test_a_text_that_was_cut_is_told_of(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "sentiment", "classify"))
    field(page, "Text").fill("The cat sat on the mat. " * 20_000)
    page.get_by_role("button", name="Run").click()
    assert answer(page)["usage"]["truncated"] == 1
    expect(page.locator("#status")).to_contain_text("one text was too long and cut")


def test_a_link_opens_a_model_and_a_task_and_never_has_the_text(server: ServerProcess, visit: Visit) -> None:
    page = visit(server.url)
    page.get_by_label("Model").select_option("vectors")
    page.get_by_role("radio", name="similarity").check()
    field(page, "Text").fill("a secret")
    run(page)
    link = page.url
    assert link.endswith("/#model=vectors&task=similarity")
    other = visit(link)
    expect(other.get_by_role("radio", name="similarity")).to_be_checked()
    expect(field(other, "Text")).to_have_value("How do I get to the station?")
    other.get_by_role("radio", name="similarity").focus()
    choose(other, server.url, "entailment", "zero-shot")  # its tasks are shown, too
    other.goto(f"{server.url}/#model=nobody")
    expect(other.locator("#status")).to_contain_text("not served here")


def test_the_browser_keeps_no_text(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "vectors", "embed"))
    field(page, "Text").fill("a secret")
    run(page)
    kept = page.evaluate(
        """async () => JSON.stringify([
            {...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state, document.title,
            await indexedDB.databases(), "caches" in self ? await caches.keys() : [],
        ])"""
    )
    assert "vectors" in kept  # of the address
    assert "secret" not in kept
    page.reload()
    expect(field(page, "Text")).not_to_have_value("a secret")


def test_what_was_written_is_there_after_a_look_at_another_task(server: ServerProcess, visit: Visit) -> None:
    page = visit(address(server.url, "vectors", "embed"))
    field(page, "Text").fill("My own text.")
    page.get_by_role("radio", name="similarity").check()
    expect(field(page, "Text")).to_have_value("How do I get to the station?")
    page.get_by_role("radio", name="embed").check()
    expect(field(page, "Text")).to_have_value("My own text.")
