"""The GPU check on a CPU: its parts run in small, and what only a GPU has is tried with stand-ins."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Architecture
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.errors import OutOfDeviceMemory
from app.runtime.choice import open_runner
from benchmarks.gpu_check.bundles import MODELS
from benchmarks.gpu_check.cuda_graphs import captured
from benchmarks.gpu_check.forms import FORMS
from benchmarks.gpu_check.generators import Generators, merged
from benchmarks.gpu_check.memory import random_batch
from benchmarks.gpu_check.offline import flops_per_sequence, run_all
from benchmarks.gpu_check.out_of_memory import FIRST_TOKENS, ask_short_of_memory, run_short_of_memory
from benchmarks.gpu_check.parity import difference
from benchmarks.gpu_check.part import PARTS
from benchmarks.gpu_check.report import render
from benchmarks.gpu_check.scores import compare
from benchmarks.load import Load
from benchmarks.systems import our_system, serving
from tests.app.memory import HostMemory
from tests.conftest import BundleOf
from tests.support import ROOT

Results = dict[str, Any]


def check(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, str]:
    """Every part in small: the results and the table."""
    folder = tmp_path_factory.mktemp("gpu-check")
    done = check(
        *("--device", "cpu", "--form", "smoke", "--export-python", sys.executable),
        *("--results", str(folder), "--cache", str(folder / "cache")),
    )
    [path] = folder.glob("*.json")
    results = json.loads(path.read_text())
    # All but one: what a CPU's process takes is its allocators' affair.
    assert done.returncode == 0 or not results["parts"]["memory"]["rows"][0]["passed"], done.stderr
    assert path.name == "gpu-cpu.json"
    return results, done.stdout


def rows(results: Results, part: str) -> list[dict[str, Any]]:
    return results["parts"][part]["rows"]


def test_every_part_that_a_cpu_can_run_says_where_and_when(smoke: tuple[Results, str]) -> None:
    results, _ = smoke
    assert list(results["parts"]) == ["parity", "offline", "serving", "memory"]
    assert results["card"] == {"name": "cpu"}
    for part in results["parts"].values():
        assert part["form"] == "smoke"
        assert part["date"].startswith("20")
        assert part["seconds"] > 0
        assert part["machine"]["versions"]["onnxruntime"] == ort.__version__
        assert "failed" not in part


def test_a_part_that_a_cpu_cannot_run_is_told(smoke: tuple[Results, str]) -> None:
    results, table = smoke
    assert set(results["not_run"]) == {"out-of-memory", "cuda-graphs"}
    for name, reason in results["not_run"].items():
        assert "needs CUDA" in reason
        assert f"| {name} | **not run** | needs CUDA" in table


def test_answers_are_compared(smoke: tuple[Results, str]) -> None:
    compared = rows(smoke[0], "parity")
    assert [row["model"] for row in compared] == ["demo", "demo-masked", "demo-embed"]
    for row in compared:
        assert row["passed"]
        assert 0 < row["golden_alone"] <= row["tolerance"] < 1e-3
        assert row["packed_against_alone"] == 0  # on a CPU bit for bit
        assert row["texts"] == 8
        assert row["score_difference"] < 1e-4
        assert row["flips"] == 0
        assert row["nodes_on_cpu"] == []  # which is where the session is
    assert [row["answers"] for row in compared] == [2 * 17 + 2 * 8, 2 * 18 + 2 * 8, 2 * 15 + 2 * 8]


def manifest_of(bundle: Bundle, **what: Any) -> Any:
    return bundle.manifest.model_copy(update=what)


def logits(*values: float) -> Any:
    return np.array(values, np.float32)


def test_scores_are_compared_as_callers_see_them(bundle: Bundle) -> None:
    single = manifest_of(bundle, labels=("a", "b"), problem_type="single_label_classification")
    far = compare(single, [logits(0, 0), logits(9, 0)], [logits(0.1, 0), logits(12, 0)])
    assert (far.answers, far.flips) == (2, 0)
    assert far.difference == pytest.approx(1 / (1 + np.exp(-0.1)) - 0.5)  # 3 between the logits of the other are 1e-4
    multi = manifest_of(bundle, labels=("a", "b"), problem_type="multi_label_classification")
    assert compare(multi, [logits(1, 0)], [logits(1, 0.1)]).difference == pytest.approx(1 / (1 + np.exp(-0.1)) - 0.5)
    assert compare(single, [logits(1, 0)], [logits(1, np.nan)]).difference == float("inf")


def test_scores_of_tokens_are_compared_row_by_row_and_those_of_answers_by_column(bundle: Bundle) -> None:
    exact, measured = np.array([[1, 0], [5, 0]], np.float32), np.array([[1, 0], [0, 5]], np.float32)
    entities = compare(manifest_of(bundle, task="entities", labels=("O", "X"), problem_type=None), [exact], [measured])
    assert (entities.answers, entities.flips) == (2, 1)
    # The end is the other token, the start has gone from the second to the first.
    answer = compare(manifest_of(bundle, task="answer", labels=(), problem_type=None), [exact], [measured])
    assert (answer.answers, answer.flips) == (2, 1)


def test_embeddings_are_compared_by_direction(bundle: Bundle) -> None:
    manifest = manifest_of(bundle, task="embed", labels=(), problem_type=None)
    same = compare(manifest, [logits(1, 2, 3)], [logits(2, 4, 6)])
    assert (same.answers, same.flips) == (1, 0)
    assert same.difference == pytest.approx(0, abs=1e-6)
    assert compare(manifest, [logits(1, 0)], [logits(1, 1)]).difference == pytest.approx(1 - np.sqrt(0.5))


@pytest.mark.parametrize(
    ("lead", "measured", "flips"), [(0.05, -0.01, 1), (0.05, 0.001, 0), (0.015, -0.01, 0), (-0.05, 0.01, 1)]
)
def test_only_sure_answers_must_stay(bundle: Bundle, lead: float, measured: float, flips: int) -> None:
    manifest = manifest_of(bundle, labels=("a", "b"), problem_type="single_label_classification")
    # The lead of the logits is about twice that of the scores.
    compared = compare(manifest, [logits(lead, 0)], [logits(measured, 0)])
    assert compared.flips == flips
    assert compared.is_good == (abs(lead - measured) / 4 < 2e-3 and not flips)


def test_scores_of_masked_tokens_are_compared_by_token(bundle: Bundle) -> None:
    def best(tokens: list[int], scores: list[float]) -> MaskScores:
        return MaskScores(np.array([tokens]), np.array([scores], np.float32))

    manifest = manifest_of(bundle, task="fill-mask")
    exact = best([7, 8, 9], [0.5, 0.2, 0.1])
    assert compare(manifest, [exact], [best([7, 9, 8], [0.5, 0.2, 0.1])]).difference == pytest.approx(0.1)
    assert compare(manifest, [exact], [best([7, 8, 4], [0.5, 0.2, 0.1])]).difference == pytest.approx(0)
    other = compare(manifest, [exact], [best([8, 7, 9], [0.3, 0.29, 0.1])])
    assert (other.answers, other.flips) == (1, 1)
    assert other.difference == pytest.approx(0.21)


def test_the_offline_table(smoke: tuple[Results, str]) -> None:
    rate, *models = rows(smoke[0], "offline")
    assert (rate["kind"], rate["precision"]) == ("matrix rate", "fp32")
    assert rate["tflops"] > 0
    assert [(row["texts"], row["budget"]) for row in models] == [
        (texts, budget) for texts in ("32 tokens", "128 tokens", "mix") for budget in (128, 256)
    ]
    for row in models:
        assert 0 < row["share_of_matrix_rate"] < 2  # of a rate that was measured another moment
        if row["texts"] != "mix":
            length = int(row["texts"].split()[0])
            assert row["tokens_per_s"] == pytest.approx(length * row["sequences_per_s"])
            assert row["batch_ms"] == pytest.approx(1e3 * row["budget"] / row["tokens_per_s"])


def test_the_serving_table(smoke: tuple[Results, str]) -> None:
    results, table = smoke
    measured = rows(results, "serving")
    front_ends = [n for n in (1, 2) if n <= len(os.sched_getaffinity(0))]
    kinds = ["idle", "closed", "closed", "open", "open", "open", "open"]
    assert [(row["front_ends"], row["kind"]) for row in measured] == [(n, kind) for n in front_ends for kind in kinds]
    for row in measured:
        assert row["failed"] == {}
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    for single, batched, *loads in (measured[i + 1 : i + 7] for i in range(0, len(measured), 7)):
        assert (single["requests"], batched["requests"]) == ("single", "batched")
        assert single["sequences_per_s"] == single["requests_per_s"]
        assert batched["sequences_per_s"] == 32 * batched["requests_per_s"]
        assert 20 < single["tokens_per_s"] / single["sequences_per_s"] < 40  # reviews
        assert 60 < batched["tokens_per_s"] / batched["sequences_per_s"] < 120  # the mix
        offered = [load["offered_per_s"] / single["requests_per_s"] for load in loads]
        assert offered == pytest.approx([0.25, 0.5, 0.75, 0.95])
    assert " of offline" in table


def test_memory_is_watched(smoke: tuple[Results, str]) -> None:
    [row] = rows(smoke[0], "memory")
    assert (row["batches"], row["settled_after"]) == (40, 10)
    assert 20 * 2**20 < row["settled_bytes"] <= row["most_bytes"] < 4 * 2**30
    assert row["passed"] == (row["growth"] <= 0.05)


def test_every_figure_is_in_the_table(smoke: tuple[Results, str]) -> None:
    results, table = smoke
    lines = [line for line in table.splitlines() if line.startswith("| ") and "(smoke)" in line]
    assert len(lines) == sum(len(part["rows"]) for part in results["parts"].values())
    assert {line.count("|") for line in lines} == {5}


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    done = check("--device", "cpu", "--parts", "parity,speed", "--results", str(tmp_path))
    assert done.returncode == 2
    assert "no such part: speed; there are parity, offline" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_full_form_is_refused_on_a_cpu() -> None:
    done = check("--device", "cpu", "--form", "full")
    assert done.returncode == 2
    assert "--form smoke" in done.stderr


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    done = check("--results", str(tmp_path), CUDA_VISIBLE_DEVICES="GPU-none")
    assert done.returncode == 1
    assert "Nothing can be checked on cuda" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_part_that_fails_is_told_and_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "gpu-cpu.json").write_text('{"parts": {"memory": {"rows": []}}, "not_run": {}}')
    done = check(
        *("--device", "cpu", "--parts", "memory", "--export-python", "/bin/false"),
        *("--results", str(tmp_path), "--cache", str(tmp_path / "cache")),
    )
    assert done.returncode == 1
    results = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert results["parts"] == {}
    assert results["not_run"]["memory"].startswith("ExportFailed")


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    done = check(
        *("--device", "cpu", "--parts", "memory", "--part-within-s", "0.2", "--export-python", sys.executable),
        *("--results", str(tmp_path), "--cache", str(tmp_path / "cache")),
    )
    assert done.returncode == 1
    results = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert results["not_run"]["memory"] == "it was not done after 0.2 s"


def test_every_form_ends_in_minutes_and_exports_first() -> None:
    for form in FORMS.values():
        assert form.part_within_s <= 15 * 60
        for part in PARTS:
            assert set(form.models(part)) <= set(MODELS)
    assert FORMS["full"].models("parity") == ("demo", "demo-masked", "demo-embed", "base", "large")
    assert FORMS["full"].models("serving") == ("base",)


def test_it_needs_nothing_that_the_gpu_environment_lacks() -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'safetensors', 'transformers', 'torch', 'matplotlib', 'rich'): sys.modules[name] = None\n"
        "import benchmarks.gpu_check.__main__, benchmarks.gpu_check.part\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


class Ahead:
    """A runner that launches ahead, with two buffers; it has memory for so many sequences, or tells later that it has not."""

    launches_ahead = True

    def __init__(self, room: int, *, tells_late: bool = False) -> None:
        self.room = room
        self.tells_late = tells_late
        self.buffers = 2
        self.most_launched = 0
        self.ran: list[int] = []

    def launch(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]:
        assert self.buffers, "a batch that was launched was never finished"
        if not self.tells_late:
            self._check(batch)
        self.buffers -= 1
        self.most_launched = max(self.most_launched, 2 - self.buffers)

        def finish() -> list[SequenceResult]:
            self.buffers += 1
            self._check(batch)
            self.ran.append(len(batch))
            return [np.zeros(2, np.float32)] * len(batch)

        return finish

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        return self.launch(batch)()

    def _check(self, batch: Sequence[TokenSequence]) -> None:
        if len(batch) > self.room:
            raise OutOfDeviceMemory("Failed to allocate memory")


def sequence_of(length: int, start: int = 5) -> TokenSequence:
    ids = np.arange(start, start + length)
    return TokenSequence(ids, np.zeros_like(ids), np.empty(0, np.int64))


def test_the_next_batch_is_launched_while_one_runs() -> None:
    runner = Ahead(room=10)
    run_all(runner, [[sequence_of(3)] * count for count in (1, 2, 3, 4)])
    assert runner.ran == [1, 2, 3, 4]
    assert (runner.buffers, runner.most_launched) == (2, 2)


@pytest.mark.parametrize("tells_late", [False, True])
@pytest.mark.parametrize("sizes", [(1, 11, 2, 3), (11, 11, 1), (1, 11)])
def test_running_out_of_memory_leaves_no_batch_unfinished(sizes: Sequence[int], tells_late: bool) -> None:
    runner = Ahead(room=10, tells_late=tells_late)
    with pytest.raises(OutOfDeviceMemory):
        run_all(runner, [[sequence_of(3)] * size for size in sizes])
    assert runner.buffers == 2
    run_all(runner, [[sequence_of(3)]] * 3)


def test_operations_are_counted() -> None:
    base = Architecture(
        family="bert", layers=12, hidden_size=768, attention_heads=12, vocab_size=30522, parameters=110_000_000
    )
    counted = flops_per_sequence(base, [[sequence_of(128)] * 2])
    assert counted == pytest.approx(2 * 85e6 * 128, rel=0.08)  # 85 million weights in the layers, less the last layer's


@pytest.mark.parametrize(
    ("room", "told_at"), [(FIRST_TOKENS // 8 - 1, FIRST_TOKENS), (3 * FIRST_TOKENS // 8, 4 * FIRST_TOKENS)]
)
def test_recovery_from_too_large_a_batch(room: int, told_at: int) -> None:
    row = run_short_of_memory(Ahead(room), [sequence_of(5)] * 3, sequence_of(8), tolerance=1e-3)
    assert row == {
        "failed_at_tokens": told_at,
        "message": "Failed to allocate memory",
        "answers_off": 0.0,
        "passed": True,
    }


def test_memory_that_never_runs_out_is_no_recovery() -> None:
    row = run_short_of_memory(Ahead(1 << 30), [sequence_of(5)], sequence_of(8), tolerance=1e-3)
    assert not row["passed"]


@pytest.mark.parametrize(("room", "passed"), [(4, True), (0, False), (1000, False)])
def test_recovery_of_a_server(bundle_of: BundleOf, tmp_path: Path, room: int, passed: bool) -> None:
    """A server whose memory takes so many sequences; of one that takes none, or all, nothing is shown."""
    system = our_system(Path(sys.executable), bundle_of("bert-fill-mask"), "short of memory", FAULTS=str(tmp_path))
    command = tuple(part if part != "app" else "tests.e2e.faulty" for part in system.command)
    with serving(replace(system, command=command, path="/v1/fill-mask", probe="A [MASK].")) as running:
        (tmp_path / "room").write_text(str(room))
        row = ask_short_of_memory(running, normal=["The [MASK] sat.", "A [MASK]."], large=["[MASK] [MASK]"] * 6)
    assert row["passed"] == passed
    if passed:
        assert row == {
            "texts": 6, "status": 200, "answered": 6, "failed_batches": 1, "same_after": True, "passed": True
        }  # fmt: skip
    else:
        assert (row["status"], row["answered"], row["failed_batches"]) == ((500, 0, 4) if room == 0 else (200, 6, 0))


@pytest.fixture
def bundle(bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of("bert-single-label"))


def test_a_replay_reads_its_inputs_again(bundle: Bundle) -> None:
    runner = open_runner(bundle, device="cpu", precision="fp32", threads=1)
    session = ort.InferenceSession(bundle.path(runner.variant.graph), providers=["CPUExecutionProvider"])
    memory = HostMemory()
    for number, length in enumerate((7, 12)):
        replay = captured(session, memory, "cpu", sequence_of(length), graph_id=number)
        for start in (5, 9):
            [expected] = runner.run([sequence_of(length, start)])
            np.testing.assert_array_equal(replay(sequence_of(length, start)), expected)
    assert len(memory.device) == 2  # one place for each, never moved


def test_random_batches_stay_in_the_budget_and_differ(bundle: Bundle) -> None:
    random = np.random.default_rng(1)
    batches = [random_batch(random, bundle, 200) for _ in range(200)]
    tokens = [sum(map(len, batch)) for batch in batches]
    assert max(tokens) <= 200
    assert min(tokens) < 10
    assert len({tuple(map(len, batch)) for batch in batches}) > 100
    assert max(len(sequence) for batch in batches for sequence in batch) <= bundle.manifest.max_length


def test_an_answer_that_is_no_number_is_no_match() -> None:
    ones = np.ones(2, np.float32)
    assert difference([ones, ones], [ones, ones - 0.5]) == 0.5
    assert difference([ones, ones], [ones * np.float32("nan"), ones]) == float("inf")
    assert difference([ones, ones], [ones, ones * np.float32("nan")]) == float("inf")


def test_loads_of_several_processes_are_one() -> None:
    one = Load(np.array([0, 1]), np.array([200, 429]), np.array([0.0, 0.1]), np.array([0.2, 0.5]), 0.25)
    two = Load(np.array([0, 1]), np.array([200, 200]), np.array([0.0, 0.1]), np.array([0.1, 0.3]), 0.5)
    load = merged([one, two], [0, 10])
    np.testing.assert_array_equal(load.request, [10, 0, 11, 1])
    np.testing.assert_array_equal(load.status, [200, 200, 200, 429])
    np.testing.assert_allclose(load.latency_s, [0.1, 0.2, 0.2, 0.4])
    assert (load.duration_s, load.generator_cpu) == (0.5, 0.5)


def test_generators_tell_that_nobody_listens() -> None:
    with Generators(2) as generators, pytest.raises(ConnectionRefusedError):
        generators.closed(1, [b"GET / HTTP/1.1\r\n\r\n"], count=4, connections=2)


def test_what_is_wrong_is_in_the_table() -> None:
    parity = {
        "model": "base", "variant": "cuda-fp16", "golden_alone": 0.001, "golden_packed": 0.002, "packed_against_alone": 0.0,
        "texts": 64, "tolerance": 0.01, "answers": 162, "score_difference": 0.003, "flips": 2,
        "nodes_on_cpu": ["TopK best"], "passed": False,
    }  # fmt: skip
    common = {"model": "demo-masked", "precision": "fp16", "limit_bytes": 2**30}
    short = [
        common | {"kind": "runner", "failed_at_tokens": 32768, "answers_off": 0.0, "passed": True},
        common | {"kind": "served", "texts": 256, "status": 500, "answered": 0, "failed_batches": 3, "same_after": False,
                  "passed": False},
    ]  # fmt: skip
    part = {"date": "2020", "form": "full", "machine": {"cpu": "a CPU", "cores": 16, "versions": {}}}
    parts = {"parity": part | {"rows": [parity]}, "out-of-memory": part | {"rows": short}}
    table = render({"card": {"name": "a card"}, "parts": parts, "not_run": {}})
    assert (
        "scores against fp32 0.003, 2 of 162 sure answers changed; nodes on the CPU: TopK best: **failed** "
        "| <= 0.01; scores <= 0.002, none changed |"
    ) in table
    assert "limit 1,024 MiB | reported at 32768 tokens; later answers off by 0 |" in table
    assert (
        "limit 1,024 MiB, served | 3 batches failed; status 500, 0 of 256 texts answered in halves; the next request not "
        "as before: **failed** |"
    ) in table


def test_the_aims_stand_beside_their_figures() -> None:
    offline = [
        {"kind": "matrix rate", "precision": "fp16", "tflops": 600.0},
        *(
            {
                "kind": "model", "model": "base", "precision": "fp16", "texts": texts, "budget": budget,
                "sequences_per_s": rate, "tokens_per_s": 128 * rate, "share_of_matrix_rate": 0.5,
            }
            for texts, budget, rate in (("128 tokens", 1024, 9000.0), ("128 tokens", 2048, 16000.0), ("mix", 1024, 20000.0))
        ),
        {"kind": "model", "model": "base", "precision": "fp16", "texts": "mix", "budget": 2048, "reason": "a | b"},
    ]  # fmt: skip
    common = {
        "model": "base", "precision": "fp16", "front_ends": 12, "p50_ms": 1.0, "p99_ms": 2.0, "failed": {"429": 3},
        "sent": 100, "generator_cpu": 0.5,
    }  # fmt: skip
    closed = {"kind": "closed", "connections": 64, "requests_per_s": 1000.0, "tokens_per_s": 2432000.0}
    serving = [
        common | {"kind": "idle", "requests": "single"},
        common | closed | {"requests": "single", "texts": "reviews"},
        common | closed | {"requests": "batched", "texts": "mix"},
        common | {"kind": "open", "requests": "single", "share": 0.5, "offered_per_s": 15000.0},
    ]
    graphs = [
        {
            "model": "base", "precision": "fp16", "tokens": 16, "normal_p50_ms": 2.0, "replayed_p50_ms": 1.0,
            "answers_off": 0.5, "passed": False,
        }
    ]  # fmt: skip
    machine = {"cpu": "a CPU", "cores": 16, "versions": {"onnxruntime-gpu": "1"}}
    part = {"date": "2020", "form": "full", "machine": machine}
    table = render(
        {
            "card": {"name": "a card", "memory_bytes": 80 * 2**30, "driver": "1.2"},
            "parts": {
                "offline": part | {"rows": offline},
                "serving": part | {"rows": serving},
                "cuda-graphs": part | {"rows": graphs, "failed": "it broke"},
            },
            "not_run": {},
        }
    )
    assert table.startswith("Card: a card, 80 GiB, driver 1.2.")
    [aimed_at] = [line for line in table.splitlines() if ">= 15,000 sequences/s" in line]
    assert "budget 2048 | 16,000 sequences/s, 2,048,000 tokens/s, 50% of the matrix rate |" in aimed_at
    assert "does not fit: a / b" in table
    assert "0.95 of offline" in table
    assert "| >= 30,000/s |" in table
    assert "| p99 < 20 ms at 15,000/s |" in table
    assert "| p50 < 3 ms |" in table
    assert "3 of 100 got 429" in table
    assert "answers off by 0.5: **failed**" in table
    assert "| cuda-graphs (full) | **stopped** | it broke | |" in table
