"""`@huggingface/inference` on Node, given the URL of a model as `endpointUrl`, gets the answers that transformers gives."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.conftest import KEY, TOLERANCE, answers, code_of_page
from tests.support import ServerProcess

SCRIPT: Final = Path(__file__).parent / "node" / "huggingface.js"
WITHIN_S = 60.0

Call = tuple[str, Mapping[str, Any]]


def ask(url: str, calls: Sequence[Call], key: str | None = None) -> list[Any]:
    """Call methods of the client; return the answers and errors."""
    return json.loads(run(str(SCRIPT), given=json.dumps({"endpointUrl": url, "accessToken": key, "calls": calls})))


def run(*arguments: str, given: str) -> str:
    """Run Node where the client is installed, and return what it writes."""
    node = shutil.which("node")
    assert node is not None, "install Node.js 18 or newer"
    done = subprocess.run(
        [node, *arguments],
        input=given,
        cwd=SCRIPT.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=WITHIN_S,
    )
    return done.stdout


def same(got: Any, expected: Any) -> bool:
    """Whether an answer is the stored one."""
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return got == (pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE) if isinstance(expected, float) else expected)


def whole(prediction: Any) -> Any:
    return prediction


def best(prediction: Any) -> Any:
    """The client returns the first of several answers."""
    return prediction[0]


def of_one_mask(prediction: Any) -> Any:
    """The client refuses lists for several masks."""
    return prediction[0] if len(prediction) == 1 else None


def of_entities(prediction: Any) -> Any:
    """The client refuses tokens that are not joined."""
    return None if any("entity" in one for one in prediction) else prediction


@pytest.mark.parametrize(
    ("method", "name", "names", "shape"),
    [
        ("textClassification", "bert-single-label", {}, whole),
        ("textClassification", "bert-multi-label", {}, whole),
        ("textClassification", "demo-classify", {}, whole),
        ("tokenClassification", "bert-entities", {}, of_entities),
        ("fillMask", "bert-fill-mask", {}, of_one_mask),
        ("fillMask", "demo-fill-mask", {}, of_one_mask),
        ("questionAnswering", "bert-answer", {"max_answer_length": "max_answer_len", "stride": "doc_stride"}, best),
        ("zeroShotClassification", "bert-nli", {}, whole),
        ("featureExtraction", "bert-embed", {}, whole),
        ("featureExtraction", "bert-embed-dense", {}, whole),
    ],
)
def test_every_stored_answer(
    server: ServerProcess, method: str, name: str, names: Mapping[str, str], shape: Callable[[Any], Any]
) -> None:
    calls: list[Call] = []
    expected = []
    for case in answers(name)["cases"]:
        for answer in case["answers"]:
            prediction = shape(answer["prediction"])
            if prediction is not None:
                parameters = {names.get(key, key): value for key, value in answer["parameters"].items()}
                # The client takes those of feature extraction in the body itself.
                given = parameters if method == "featureExtraction" else {"parameters": parameters}
                calls.append((method, {"inputs": case["input"], **given}))
                expected.append(prediction)
    assert calls
    got = ask(f"{server.url}/models/{name}", calls)
    pairs = enumerate(zip(got, expected, strict=True))
    assert [(i, one) for i, (one, other) in pairs if not same(one.get("answer"), other)] == []


def test_sentence_similarity(server: ServerProcess) -> None:
    inputs = {"source_sentence": "Good", "sentences": ["Good", "I love this product"]}
    native = server.post("/v1/similarity", {"model": "bert-embed", "inputs": inputs}).json["predictions"]
    [got] = ask(f"{server.url}/models/bert-embed", [("sentenceSimilarity", {"inputs": inputs})])
    assert [got["answer"]] == native


def test_the_url_of_the_server_will_do_where_a_model_is_the_default(server: ServerProcess) -> None:
    call = ("questionAnswering", {"inputs": {"question": "Where?", "context": "Paris"}})
    assert ask(server.url, [call]) == ask(f"{server.url}/models/bert-answer", [call])


def test_the_key_is_the_token(locked: ServerProcess) -> None:
    url, call = f"{locked.url}/models/bert-single-label", ("textClassification", {"inputs": "Good"})
    assert len(ask(url, [call], KEY)[0]["answer"]) == 3
    assert ask(url, [call], "wrong")[0]["status"] == 401


def test_an_error_has_the_servers_message(server: ServerProcess) -> None:
    calls = [("textClassification", {"inputs": "Good", "parameters": {"top_k": 0}})]
    [error] = ask(f"{server.url}/models/bert-single-label", calls)
    assert error["status"] == 422
    assert "parameters.top_k: input should be greater than or equal to 1" in error["error"]


def test_the_code_of_the_page_runs(server: ServerProcess) -> None:
    assert "label: " in run("--input-type=module", "-", given=code_of_page("@huggingface", server))
