"""The GPU check on a CPU: its parts run in small, and what only a GPU has is tried with stand-ins."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Architecture
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.errors import OutOfDeviceMemory
from app.runtime.choice import open_runner
from benchmarks.batches import sequence
from benchmarks.bench import Bench
from benchmarks.bundles import HEAD_SIZES, MODELS, SMALL_MODELS, Bundles
from benchmarks.checkpoints import DEMO, checkpoint
from benchmarks.gpu_check import COMMAND
from benchmarks.machine import describe_device, describe_machine
from benchmarks.parts.cuda_graphs import captured
from benchmarks.parts.memory import random_batch
from benchmarks.parts.offline import HELD, flops_per_sequence, run_all
from benchmarks.parts.out_of_memory import FIRST_TOKENS, ask_short_of_memory, run_short_of_memory
from benchmarks.parts.parity import difference, parity
from benchmarks.parts.scores import compare
from benchmarks.servers import our_server, serving
from model_export.checkpoint.families import FAMILIES
from model_export.export import ExportOptions, export
from model_export.tasks import TASKS
from tests.app.memory import HostMemory
from tests.conftest import BundleOf
from tests.support import ROOT

Results = dict[str, Any]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every part in small, with the demo's bundles in the cache."""
    folder = tmp_path_factory.mktemp("gpu-check")
    stamp = Bundles(Path(sys.executable), folder / "cache", "cpu")._export_hash()
    for name in ("demo", "demo-masked", "demo-embed"):
        bundle = folder / "cache" / "bundles" / "cpu" / name / name
        bundle.parent.mkdir(parents=True)
        export(ExportOptions(str(DEMO), bundle, task=MODELS[name][1], variants=["cpu-fp32"]), lambda _: None)
        bundle.with_suffix(".exported-by").write_text(stamp)
    command = (
        *(sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--form", "smoke"),
        *("--export-python", sys.executable, "--results", str(folder), "--cache", str(folder / "cache")),
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    [path] = folder.glob("gpu-*.json")
    results = json.loads(path.read_text())
    # All but one: what a CPU's process takes is its allocators' affair.
    assert done.returncode == 0 or not results["parts"]["memory"]["rows"][0]["passed"], done.stderr
    exported = [line for line in done.stderr.splitlines() if line.startswith("exporting")]
    assert exported == ["exporting tiny for cpu"]
    return results


def rows(results: Results, part: str) -> list[dict[str, Any]]:
    return results["parts"][part]["rows"]


def test_every_part_that_a_cpu_can_run_is_done(smoke: Results) -> None:
    parts = smoke["parts"]
    assert list(parts) == ["parity", "offline", "serving", "memory", "out-of-memory", "cuda-graphs"]
    assert not any("failed" in part for part in parts.values())
    not_run = {name: part["not_run"] for name, part in parts.items() if "not_run" in part}
    assert set(not_run) == {"out-of-memory", "cuda-graphs"}
    assert all("needs CUDA" in reason for reason in not_run.values())


def test_answers_are_compared(smoke: Results) -> None:
    compared = rows(smoke, "parity")
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


def test_parity_covers_every_task_family_and_kind_of_head(bundle_of: BundleOf, tmp_path: Path) -> None:
    """In fp32 on a CPU, where all answers are the source's. On the simulated GPU `tests/cuda` asks more of them."""
    models = [*HEAD_SIZES, *SMALL_MODELS]

    class Exported(Bundles):
        def folder(self, name: str) -> Path:
            return bundle_of(checkpoint(name, tmp_path))

    compared = list(parity(Bench("cpu", Exported(Path(sys.executable), tmp_path, "cpu")), models=models, texts=4))
    assert [row["model"] for row in compared if not row["passed"]] == []
    manifests = [load_bundle(bundle_of(checkpoint(name, tmp_path))).manifest for name in models]
    assert {one.task for one in manifests} == set(TASKS)
    assert {one.architecture.family for one in manifests} == set(FAMILIES)
    sizes = {one.architecture.hidden_size // one.architecture.attention_heads for one in manifests}
    assert {size % 8 for size in sizes} > {0}
    full = COMMAND.forms["full"].parts["parity"]
    assert set(models) < set(full.models)


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
    assert compared.is_good(2e-3) == (abs(lead - measured) / 4 < 2e-3 and not flips)


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


def test_the_engine_alone_is_measured(smoke: Results) -> None:
    rate, *models = rows(smoke, "offline")
    assert (rate["kind"], rate["precision"]) == ("matrix products alone", "fp32")
    assert rate["tflops"] > 0
    held = [row for row in models if row["kind"] == HELD]
    bursts = [row for row in models if row["kind"] != HELD]
    assert [(row["texts"], row["budget"]) for row in bursts] == [
        (texts, budget) for texts in ("32", "128", "mix") for budget in ("128", "256")
    ]
    for row in held:
        of_texts = [one for one in bursts if one["texts"] == row["texts"]]
        assert row["budget"] == max(of_texts, key=itemgetter("tokens_per_s"))["budget"], "the fastest is held"
        assert row["held_s"] == 0.05
    assert [row["texts"] for row in held] == ["32", "128", "mix"]
    for row in models:
        assert 0 < row["share_of_matrix_rate"] < 10  # of a rate that was measured another moment, beside other tests
        if row["texts"] != "mix":
            assert row["tokens_per_s"] == pytest.approx(int(row["texts"]) * row["sequences_per_s"])
            assert row["batch_ms"] == pytest.approx(1e3 * int(row["budget"]) / row["tokens_per_s"])


def test_the_server_is_measured(smoke: Results) -> None:
    measured = rows(smoke, "serving")
    front_ends = [str(n) for n in (1, 2) if n <= usable_cpus()]
    kinds = ["one short text at a time", "closed loop", "closed loop", *["open loop"] * 4]
    assert [(row["front_ends"], row["kind"]) for row in measured] == [(n, kind) for n in front_ends for kind in kinds]
    for row in measured:
        assert row["failed"] == {}
        assert row["p50_ms"] > 0
    for single, batched, *loads in (measured[i + 1 : i + 7] for i in range(0, len(measured), 7)):
        assert (single["requests"], batched["requests"]) == ("single", "batched")
        assert 20 < single["tokens_per_s"] / single["requests_per_s"] < 40  # reviews
        assert 60 < batched["tokens_per_s"] / batched["requests_per_s"] / 32 < 120  # the mix
        offered = [load["offered_per_s"] / single["requests_per_s"] for load in loads]
        assert offered == pytest.approx([0.25, 0.5, 0.75, 0.95])


def test_memory_is_watched(smoke: Results) -> None:
    [row] = rows(smoke, "memory")
    assert (row["batches"], row["settled_after"]) == (40, 10)
    assert 20 * 2**20 < row["settled_bytes"] <= row["most_bytes"] < 4 * 2**30
    assert row["passed"] == (row["growth"] <= 0.05)


def test_every_form_ends_in_minutes_and_exports_first() -> None:
    for form in COMMAND.forms.values():
        assert form.part_within_s <= 15 * 60
        for part in form.parts.values():
            assert set(part.models) <= set(MODELS)
            used = part.measure.keywords.get("models", part.measure.keywords.get("model", ()))
            assert set([used] if isinstance(used, str) else used) <= set(part.models)


def test_front_ends_and_generators_are_counted_by_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.bundle.cpus.cpu_quota", lambda: 0.5)
    assert Bench("cpu", Bundles(Path(sys.executable), tmp_path, "cpu")).cores == 1
    assert describe_machine()["cores"] == describe_device("cpu")["cores"] == 1


def test_it_needs_nothing_that_the_gpu_environment_lacks() -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'safetensors', 'transformers', 'torch', 'matplotlib', 'rich'): sys.modules[name] = None\n"
        "import benchmarks.gpu_check\n"
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
    return sequence(np.arange(start, start + length))


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


def test_recovery_of_a_server(bundle_of: BundleOf, tmp_path: Path) -> None:
    """The server's memory takes so many sequences; one that takes all, or none, shows nothing."""
    system = our_server(bundle_of("bert-fill-mask"), "cpu-fp32", "short of memory")
    command = tuple(part if part != "app" else "tests.e2e.faulty" for part in system.command)
    faults = {"FAULTS": str(tmp_path)}
    system = replace(system, command=command, environment=faults, path="/v1/fill-mask", probe="A [MASK].")
    rows = {}
    with serving(system) as running:
        for room in (1000, 4, 0):
            (tmp_path / "room").write_text(str(room))
            rows[room] = ask_short_of_memory(
                running, normal=["The [MASK] sat.", "A [MASK]."], large=["[MASK] [MASK]"] * 6
            )
    told = {room: (row["status"], row["answered"], row["same_after"], row["passed"]) for room, row in rows.items()}
    assert told == {1000: (200, 6, True, False), 4: (200, 6, True, True), 0: (500, 0, True, False)}
    none, one, more = (row["failed_batches"] for row in rows.values())  # counted from the server's start
    assert (none, one) == (0, 1)
    assert more >= 5


@pytest.fixture
def bundle(bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of("bert-single-label"))


def test_a_replay_reads_its_inputs_again(bundle: Bundle) -> None:
    runner = open_runner(bundle, device="cpu", precision="fp32", threads=[1])
    session = ort.InferenceSession(bundle.path(runner.variant.graph), providers=["CPUExecutionProvider"])
    memory = HostMemory()
    replays = [captured(session, memory, "cpu", sequence_of(length), graph_id=i) for i, length in enumerate((7, 12))]
    for replay, length in zip(replays, (7, 12), strict=True):
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
