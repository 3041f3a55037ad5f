"""A panic in a library's Rust code, which Python does not take for an `Exception`."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import BundleOf
from tests.support import CHECKPOINTS, ServerProcess, eventually, serving

PANICS, GOOD = "q" * 30, "The cat sat on the mat."


@pytest.fixture(scope="module")
def server(bundle_of: BundleOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Of a model whose tokenizer has an expression that the library gives up on, and panics."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "panicking"
    shutil.copytree(CHECKPOINTS / "bert-single-label", checkpoint)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(q+)+!"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [tokenizer["pre_tokenizer"], split]}
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    models = tmp_path_factory.mktemp("models")
    (models / "panicking").symlink_to(bundle_of(checkpoint))
    with serving(models, "--threads", "1") as server:
        yield server


@pytest.mark.parametrize("padding", [1, 100_000], ids=["on the event loop", "in a thread"])
def test_a_panic_fails_its_request_alone(server: ServerProcess, padding: int) -> None:
    failed = server.metric("bert_requests_total", status="500")
    reply = server.post("/v1/classify", {"inputs": [PANICS, " " * padding + "good"]}, x_request_id=f"panic-{padding}")
    assert (reply.status, reply.json["error_type"]) == (500, "internal")
    assert reply.json["request_id"] == f"panic-{padding}"
    assert PANICS not in reply.error
    assert server.metric("bert_requests_total", status="500") == failed + 1
    assert server.metric("bert_inflight_requests") == 0
    assert server.post("/v1/classify", {"inputs": GOOD}).status == 200


def test_a_panic_is_one_record_of_the_log(server: ServerProcess) -> None:
    server.post("/v1/classify", {"inputs": PANICS}, x_request_id="told")

    def told_of_it() -> list[dict[str, Any]]:
        # The library writes lines of its own to stderr.
        records = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        return [record for record in records if record.get("request_id") == "told"]

    told = eventually(lambda: told_of_it() if len(told_of_it()) >= 2 else [])
    assert [record["message"] for record in told] == ["request failed", "request"]
    assert told[0]["exception"].endswith("PanicException")
    assert "retry-limit" not in json.dumps(told)


def test_a_panic_in_a_dialect_has_the_form_of_its_errors(server: ServerProcess) -> None:
    reply = server.post("/tokenize", {"inputs": PANICS})
    assert (reply.status, reply.json["error_type"]) == (500, "Backend")
