"""What would be faster on a CPU, and how to get it."""

import logging
import tomllib
from pathlib import Path

import pytest

from app.bundle.files import Bundle, load_bundle
from app.engine.messages import Faster
from app.runtime import advice
from app.runtime.advice import advised, log_advice
from model_export import __main__
from tests.app.loaded import loaded
from tests.app.runtime.machines import with_variants
from tests.support import ROOT, change_manifest

EXPORT = (
    "python -m model_export export --checkpoint DIR_OR_HUB_ID --output models/sentiment --task classify --variants "
)


def put_cpu(monkeypatch: pytest.MonkeyPatch, *sets: str) -> None:
    monkeypatch.setattr(advice, "instruction_sets", lambda: sets)


@pytest.mark.parametrize("instruction_set", ["AVX2", "VNNI", "DOTPROD", "I8MM"])
def test_int8_is_faster_where_its_products_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, instruction_set: str
) -> None:
    put_cpu(monkeypatch, "AVX-512", instruction_set)
    told = advised(with_variants(folder, ("cpu", "fp32"), ("cpu", "int8")), loaded(threads=[1]))
    assert told.instruction_sets == ("AVX-512", instruction_set)
    assert told.faster == (Faster("cpu-int8", "BERT_PRECISION=int8", None, "changes some answers"),)


def test_a_variant_that_is_not_there_is_made_by_an_export_that_keeps_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cpu(monkeypatch, "VNNI")
    told = advised(with_variants(folder, ("cpu", "fp32"), ("cuda", "fp16")), loaded(threads=[1]))
    command = EXPORT + "cpu-fp32,cuda-fp16,cpu-int8"
    assert told.faster == (Faster("cpu-int8", "BERT_PRECISION=int8", command, "changes some answers"),)
    options = __main__._parser().parse_args(command.removeprefix("python -m model_export ").split())
    assert options.variants == ["cpu-fp32", "cuda-fp16", "cpu-int8"]


@pytest.mark.parametrize("sets", [(), ("NEON", "SVE")])
def test_nothing_is_faster_where_products_of_fewer_bits_are_slow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sets: tuple[str, ...]
) -> None:
    put_cpu(monkeypatch, *sets)
    assert advised(load_bundle(folder), loaded(threads=[1])).faster == ()


def test_bf16_needs_the_release_of_openvino_that_was_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cpu(monkeypatch, "AVX-512 BF16")
    monkeypatch.setattr(advice, "needs_openvino", lambda: True)
    [faster] = advised(load_bundle(folder), loaded(threads=[1])).faster
    assert (faster.variant, faster.setting) == ("cpu-bf16", "BERT_PRECISION=bf16")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [f"pip install '{one}'" for one in extras["openvino"]] == [faster.command]


def test_nothing_is_faster_than_the_fastest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cpu(monkeypatch, "VNNI")
    bundle = with_variants(folder, ("cpu", "fp32"), ("cpu", "int8"))
    assert advised(bundle, loaded(threads=[1], variant="cpu-int8")).faster == ()


def test_a_variant_that_the_export_left_out_is_not_advised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cpu(monkeypatch, "VNNI")
    change_manifest(folder, left_out={"cpu-int8": "It changes too many answers."})
    assert advised(load_bundle(folder), loaded(threads=[1])).faster == ()


def test_of_a_model_on_a_gpu_nothing_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_cpu(monkeypatch, "VNNI")
    on_gpu = loaded(threads=())
    assert advised(load_bundle(folder), on_gpu) == on_gpu
    with caplog.at_level(logging.INFO):
        log_advice({"a": on_gpu})
    assert not caplog.messages


def test_a_line_tells_what_the_cpu_has_and_what_is_faster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_cpu(monkeypatch, "AVX2", "VNNI", "AMX")
    monkeypatch.setattr(advice, "needs_openvino", lambda: False)
    without = load_bundle(folder)
    with_both = with_variants(folder, ("cpu", "fp32"), ("cpu", "int8"))
    with caplog.at_level(logging.INFO):
        log_advice(
            {
                "a": advised(with_both, loaded(threads=[1])),
                "b": advised(with_both, loaded(threads=[1], variant="cpu-int8")),
                "c": advised(without, loaded(threads=[1], variant="cpu-bf16")),
                "d": advised(with_both, loaded(threads=[1])),
            }
        )
    assert "\n".join(caplog.messages) == (
        "this CPU has AVX2, VNNI, AMX. As cpu-fp32 (faster here: cpu-int8, which changes some answers (set BERT_PRECISION=int8); "
        "cpu-bf16, which rounds scores (set BERT_PRECISION=bf16)): a, d. As cpu-int8: b. As cpu-bf16 (faster here: cpu-int8, which "
        f"changes some answers (run {EXPORT}cpu-fp32,cpu-int8, then set BERT_PRECISION=int8)): c."
    )


def test_the_command_for_several_models_stands_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_cpu(monkeypatch, "VNNI", "AMX")
    bundle = load_bundle(folder)
    models = [Bundle(folder, bundle.manifest, name=name) for name in ("a model", "b")]
    with caplog.at_level(logging.INFO):
        log_advice({one.name: advised(one, loaded(threads=[1])) for one in models})
    [line] = caplog.messages
    assert line.count("--output models/NAME --task TASK --variants cpu-fp32,cpu-int8, then") == 1
    assert line.endswith(": a model, b.")


def test_a_cpu_that_is_not_known_is_said_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_cpu(monkeypatch)
    with caplog.at_level(logging.INFO):
        log_advice({"a": advised(load_bundle(folder), loaded(threads=[1]))})
    assert caplog.messages == ["this CPU has no instruction sets that are known. As cpu-fp32: a."]
