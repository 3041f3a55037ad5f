"""The runner on real graphs: no answer depends on its company, and what fails is told for what it is."""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.graph_inputs import Feeds
from app.bundle.manifest import Target
from app.bundle.sequences import MaskScores, SequenceResult, TokenArray, TokenSequence
from app.engine.golden import golden_sequences, of_length
from app.errors import EngineLost, OutOfDeviceMemory, StartupError
from app.runtime import options
from app.runtime.choice import open_runner
from app.runtime.runner import OrtRunner
from tests.app.runtime.machines import with_variants
from tests.conftest import BundleOf

MODELS = ["bert-single-label", "bert-fill-mask", "roberta-fill-mask", "xlm-roberta-multi-label", "electra-single-label"]


def load(bundle: Bundle) -> OrtRunner:
    return open_runner(bundle, device="auto", precision="auto", threads=[1])


def same(one: SequenceResult, other: SequenceResult) -> bool:
    """Bit for bit."""
    if isinstance(one, MaskScores):
        assert isinstance(other, MaskScores)
        return np.array_equal(one.tokens, other.tokens) and one.scores.tobytes() == other.scores.tobytes()
    assert not isinstance(other, MaskScores)
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_no_answer_depends_on_its_batch(bundle_of: BundleOf, name: str) -> None:
    bundle = load_bundle(bundle_of(name))
    runner = load(bundle)
    sequences = golden_sequences(bundle)
    alone = [runner.run([sequence])[0] for sequence in sequences]
    choice = random.Random(3)
    for size in (1, 2, 3, 7, 20, 60):
        chosen = [choice.randrange(len(sequences)) for _ in range(size)]
        for i, result in zip(chosen, runner.run([sequences[i] for i in chosen]), strict=True):
            assert same(result, alone[i])


def test_sequences_of_a_batch_may_want_different_top_k(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-fill-mask"))
    runner, [first, *_] = load(bundle), golden_sequences(bundle)

    def asking(top_k: int, targets: list[int] | None = None) -> TokenSequence:
        chosen = None if targets is None else np.array(targets)
        return TokenSequence(first.input_ids, first.token_type_ids, first.masks, top_k, chosen)

    asked = [asking(1), asking(400), asking(3), asking(2, [7, 9, 11]), asking(1, [7])]
    results = runner.run(asked)
    assert all(same(result, runner.run([one])[0]) for one, result in zip(asked, results, strict=True))
    shapes = [result.tokens.shape[1] for result in results if isinstance(result, MaskScores)]
    assert shapes == [1, 400, 3, 2, 1]


@pytest.mark.parametrize("name", ["bert-single-label", "bert-fill-mask", "bert-embed"])
def test_threads_do_not_change_the_answer(bundle_of: BundleOf, name: str) -> None:
    """Not by one bit: the server changes between them by its load."""
    bundle = load_bundle(bundle_of(name))
    golden = golden_sequences(bundle)
    sequences = [*golden, *(of_length(golden[0], length) for length in range(2, bundle.manifest.max_length, 3))]
    runner = OrtRunner(bundle, bundle.manifest.variants[0], threads=[1, 2, 3])
    assert runner.threads == [1, 2, 3]
    expected = runner.run(sequences, 1)
    for threads in (2, 3):
        together, alone = runner.run(sequences, threads), [runner.run([one], threads)[0] for one in sequences]
        assert all(same(*pair) for results in (together, alone) for pair in zip(results, expected, strict=True))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", EngineLost),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", EngineLost),
        ("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED", EngineLost),
        ("CUDA failure 209: no kernel image is available for execution on the device", StartupError),
        ("CUDA failure 2: out of memory", OutOfDeviceMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", OutOfDeviceMemory),
        ("Failed to allocate memory for requested buffer of size 12884901888", OutOfDeviceMemory),
        ("Exception during initialization: std::bad_alloc", OutOfDeviceMemory),
        ("Available memory of 8380416 is smaller than requested bytes of 25600000", OutOfDeviceMemory),
        ("Got invalid dimensions for input: input_ids", RuntimeError),
    ],
)
@pytest.mark.parametrize("fails", ["launch", "finish"])
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_device_failure_is_told_apart_from_a_batch_failure(
    bundle_of: BundleOf,
    monkeypatch: pytest.MonkeyPatch,
    target: Target,
    fails: str,
    message: str,
    kind: type[Exception],
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner = load(bundle)
    fault = RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {message}")

    class Execution:
        def launch(self, *_: Any, **__: Any) -> Any:
            if fails == "launch":
                raise fault
            return self.finish

        def finish(self) -> None:
            raise fault

    monkeypatch.setattr(runner, "_execution", Execution())
    monkeypatch.setattr(runner, "variant", bundle.manifest.variants[0].model_copy(update={"target": target}))
    with pytest.raises(RuntimeError if kind is EngineLost and target == "cpu" else kind) as raised:
        runner.run(golden_sequences(bundle)[:1])
    assert fault in (raised.value, raised.value.__cause__)
    assert kind is not EngineLost or message not in str(raised.value) or raised.value is fault


def test_a_memory_limit_below_the_weights_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_variants(folder, ("cpu", "fp32"))
    [exported] = bundle.manifest.variants
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(StartupError, match=r"BERT_GPU_MEMORY_MIB is 0, but the weights of sentiment alone take 1"):
        OrtRunner(bundle, exported.model_copy(update={"target": "cuda"}), threads=[1], gpu_memory_bytes=1000)


def test_trim_answers_as_run_does(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, sequences = load(bundle), golden_sequences(bundle)
    expected = runner.run(sequences)
    assert all(map(same, runner.trim(sequences), expected))
    assert all(map(same, runner.run(sequences), expected))


def test_a_missing_arena_is_no_error(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, sequences = load(bundle), golden_sequences(bundle)
    expected = runner.run(sequences)
    monkeypatch.setattr(options, "ARENAS", {"cpu": "gpu:0"})
    assert all(map(same, runner.trim(sequences), expected))
    [told] = caplog.records
    assert re.search("memory that warm-up took is kept: .*arena", told.getMessage())


@pytest.mark.parametrize("kind", [EngineLost, OutOfDeviceMemory])
def test_trimming_hides_no_lost_device(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner = load(bundle)
    asked: list[Any] = []

    def launch(batch: Any, options: Any = None) -> Any:
        asked.append(options)
        raise kind("it broke")

    monkeypatch.setattr(runner, "_launch", launch)
    with pytest.raises(kind):
        runner.trim(golden_sequences(bundle))
    assert len(asked) == 1, "it is not run again"


def test_a_sequence_that_the_graph_cannot_take_raises(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, good = load(bundle), golden_sequences(bundle)[0]
    expected = runner.run([good])[0]
    bad = TokenSequence(np.array([2, 10**6, 3], np.int32), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="not one of the 400 of the vocabulary"):
        runner.run([good, bad])
    assert same(runner.run([good])[0], expected)


def sequence(ids: Sequence[int], types: Sequence[int] | None = None, masks: Sequence[int] = ()) -> TokenSequence:
    types = [0] * len(ids) if types is None else types
    return TokenSequence(np.array(ids, np.int32), np.array(types, np.int32), np.array(masks, np.int32), 5)


@pytest.mark.parametrize("good", [[], [[2, 50, 3]]])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (sequence([]), "a sequence a token"),
        (sequence([400]), "vocabulary"),
        (sequence([-1]), "vocabulary"),
        (sequence([2] * 41), "more than 40 tokens"),
        (sequence([2, 3], [0]), "one token type for each"),
        (sequence([2, 3], [0, 0, 0]), "one token type for each"),
        (sequence([2, 3], masks=[2]), "outside of its sequence"),
        (sequence([2, 3], masks=[-1]), "outside of its sequence"),
    ],
)
def test_what_a_kernel_would_read_beyond_its_table_is_refused(
    bundle_of: BundleOf, bad: TokenSequence, says: str, good: list[list[int]]
) -> None:
    """Some kernels would divide by zero, which ends the process, or answer with another sequence's tokens."""
    runner = load(load_bundle(bundle_of("bert-fill-mask")))
    with pytest.raises(ValueError, match=says):
        runner.run([*map(sequence, good), bad])


def test_no_sequences_are_no_batch(bundle_of: BundleOf) -> None:
    with pytest.raises(ValueError, match="needs a sequence"):
        load(load_bundle(bundle_of("bert-fill-mask"))).run([])


def test_masks_whose_scores_take_much_memory_run_apart(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(bundle_of("bert-fill-mask"))
    runner = load(bundle)
    with_masks = [one for one in golden_sequences(bundle) if len(one.masks)][:1] * 2
    assert len(runner.run(with_masks)) == 2
    monkeypatch.setattr("app.runtime.runner.MASK_BYTES", 4 * bundle.manifest.architecture.vocab_size)
    with pytest.raises(OutOfDeviceMemory, match="scores of all masks"):
        runner.run(with_masks)
    assert len(runner.run(with_masks[:1])) == 1


@pytest.mark.parametrize("targets", [None, np.array([7, 9, 11], np.int32)])
def test_a_text_whose_masks_do_not_fit_together_is_answered_as_with_more_memory(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, targets: TokenArray | None
) -> None:
    bundle = load_bundle(bundle_of("bert-fill-mask"))
    runner = load(bundle)
    text = of_length(golden_sequences(bundle)[0], 12)
    one = TokenSequence(text.input_ids, text.token_type_ids, np.arange(7, dtype=np.int32), 3, targets)
    [expected] = runner.run([one])
    launch, ran = runner._execution.launch, []

    def with_room_for(room: int) -> None:
        def launched(feeds: Feeds, *rest: Any, **more: Any) -> Any:
            ran.append(len(feeds["mask_index"]))
            if ran[-1] > room:
                raise RuntimeError("Failed to allocate memory for requested buffer")
            return launch(feeds, *rest, **more)

        monkeypatch.setattr(runner._execution, "launch", launched)

    with_room_for(2)
    [result] = runner.run([one])
    assert same(result, expected)
    assert ran == [7, 4, 2, 2, 3, 2, 1]
    with_room_for(0)
    with pytest.raises(OutOfDeviceMemory):
        runner.run([one])
