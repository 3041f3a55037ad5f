"""The report: a table for each kind of row, with medians of rounds, and what was not measured."""

from typing import Any

from benchmarks.parts.compare import _beside_the_best_peer, contending, fastest_settings
from benchmarks.report import medians, render, render_all
from benchmarks.texts import http_request, read_texts


def row(server: str, setting: str, rate: float, **more: Any) -> dict[str, Any]:
    return {
        "kind": "closed loop",
        "server": server,
        "engine": "ONNX Runtime fp32",
        "setting": setting,
        "texts": "reviews",
        "requests_per_s": rate,
        **more,
    }


def results(**parts: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"cpu": "a CPU", "cores": 2, "gemm_gflops": 100.0, "load_average": 0.5, "versions": {"onnxruntime": "1"}}
    part = {
        "date": "2020",
        "seconds": 1.0,
        "form": "short",
        "rounds": 1,
        "about": "What is measured.",
        "machine": machine,
    }
    return {
        "device": {"name": "a card", "memory_bytes": 80 * 2**30, "driver": "1.2"},
        "parts": {name: {**part, "load_average_after": 0.6, "rows": rows} for name, rows in parts.items()},
    }


def test_figures_of_several_rounds_are_medians() -> None:
    rounds = [row("mosec", "batch 16", rate, failed={}, p99_ms=None) for rate in (10.0, 30.0, 11.0)]
    [merged] = medians(rounds)
    assert merged == rounds[0] | {"requests_per_s": 11.0}


def test_rows_of_different_texts_stay_apart() -> None:
    assert len(medians([row("mosec", "a", 1.0), row("mosec", "b", 1.0), row("BentoML", "a", 1.0)])) == 3


def test_the_fastest_server_comes_first() -> None:
    text = render(
        results(base=[row("a", "x", 1.0), row("b", "x", 3.0), row("c", "x", 9.0, texts="mix"), row("d", "x", 2.0)])
    )
    lines = [line.split(" | ")[0] for line in text.splitlines() if "| x |" in line]
    assert lines == ["| c", "| b", "| d", "| a"]


def test_rates_are_relative_to_the_best_peer_of_the_round() -> None:
    rows = [
        row("this server", "fp32", 40.0),
        row("mosec", "batch 16", 20.0),
        row("FastAPI", "no batching", 32.0),
        row("mosec", "batch 16", 10.0, texts="mix"),
        {"kind": "not measured", "server": "Ray Serve", "setting": "batch 16", "error": "x"},
    ]
    ratios = [one.get("of_best_peer") for one in _beside_the_best_peer(rows)]
    assert ratios == [1.25, 0.625, 1.0, 1.0, None]


def test_what_is_served_is_held_against_the_engine_alone() -> None:
    offline = {"model": "base", "precision": "fp16", "texts": "mix", "budget": "1024", "tokens_per_s": 1000.0}
    served = {"model": "base", "precision": "fp16", "texts": "mix", "tokens_per_s": 900.0}
    text = render(results(offline=[offline, offline | {"budget": "2048", "tokens_per_s": 800.0}], serving=[served]))
    assert "| base | fp16 | mix | 900 | 0.9 |" in text


def on_processor(name: str, sets: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return results(base=rows) | {"device": {"name": name, "cores": 2, "instruction_sets": sets}}


def test_what_is_served_is_held_against_what_was_held() -> None:
    """A burst is faster than what a card keeps up."""
    burst = {"model": "base", "precision": "fp16", "texts": "mix", "budget": "1024", "tokens_per_s": 1000.0}
    held = burst | {"kind": "the engine alone, held", "held_s": 10, "tokens_per_s": 800.0}
    served = {"model": "base", "precision": "fp16", "texts": "mix", "tokens_per_s": 720.0}
    table = render(results(offline=[burst, held], serving=[served])).partition("## serving")[2]
    assert "| of offline |" in table
    assert table.rstrip().endswith("| 0.9 |")


def test_processors_stand_side_by_side_with_the_best_setting_of_each_server() -> None:
    old = [
        row("mosec", "a", 1.0),
        row("mosec", "b", 3.0),
        row("mosec", "a", 9.0, texts="mix"),
        row("FastAPI", "a", 2.0),
    ]
    missing = [{"kind": "not measured", "server": "x", "setting": setting, "error": "no"} for setting in "ab"]
    new = [row("mosec", "b", 40.0), row("mosec", "a", 50.0), *missing]
    text = render_all({"old.md": on_processor("E", ["AVX2"], old), "new.md": on_processor("E", ["AVX2", "AMX"], new)})
    lines = [
        line.split(" | ")[:4] for line in text.splitlines() if line.startswith("| E, ") and "closed loop" not in line
    ]
    rated = [line for line in lines if line[1] in {"mosec", "FastAPI"}]
    assert [(line[0], line[1], line[3]) for line in rated] == [
        ("| E, 2 cores, AVX2", "mosec", "a"),
        ("| E, 2 cores, AVX2", "mosec", "b"),
        ("| E, 2 cores, AVX2", "FastAPI", "a"),
        ("| E, 2 cores, AVX2 AMX", "mosec", "a"),
    ]
    assert [line[1:3] for line in lines].count(["x", "a"]) == 1  # what is missing is named, once
    assert ["x", "b"] not in [line[1:3] for line in lines]
    assert "[old.md](old.md)" in text


def test_the_settings_that_a_sweep_found_fastest_stay() -> None:
    rows = [
        row("mosec", "a", 1.0),
        row("mosec", "b", 3.0),
        row("mosec", "c", 2.0),
        row("mosec", "a", 9.0, texts="mix"),
        row("mosec", "c", 1.0, engine="OpenVINO int8"),
        {"kind": "not measured", "server": "Ray Serve", "setting": "a", "error": "x"},
    ]
    assert fastest_settings(rows) == {
        "mosec, ONNX Runtime fp32, b",
        "mosec, ONNX Runtime fp32, a",
        "mosec, OpenVINO int8, c",
    }


def test_what_is_far_behind_in_a_sweep_is_not_measured_again() -> None:
    """Each precision has its own fastest peer, and each set of texts."""
    rows = [
        row("this server", "all", 99.0, engine="cpu-fp32"),
        row("mosec", "b", 10.0),
        row("FastAPI", "c", 5.0),
        row("BentoML", "d", 4.9),
        row("Ray Serve", "e", 4.0),
        row("Ray Serve", "e", 1.0, texts="mix"),
        row("mosec", "c", 4.0, engine="OpenVINO int8"),
        row("mosec", "a", 8.0, engine="OpenVINO bf16"),
        row("mosec", "a", 3.0, engine="torch bf16, compiled"),
        {"kind": "not measured", "server": "Ray Serve", "setting": "a", "error": "x"},
    ]
    assert contending(rows, fastest_settings(rows)) == {
        "mosec, ONNX Runtime fp32, b",
        "FastAPI, ONNX Runtime fp32, c",
        "Ray Serve, ONNX Runtime fp32, e",
        "mosec, OpenVINO int8, c",
        "mosec, OpenVINO bf16, a",
    }
    assert contending(rows, {"FastAPI, ONNX Runtime fp32, c"}) == {"FastAPI, ONNX Runtime fp32, c"}


def test_cells_are_readable() -> None:
    cells = {
        "a": True, "b": False, "c": None, "d": {"429": 3, "0": 1}, "e": {}, "f": ["x | y", "z"], "some_bytes": 3 * 2**20,
        "g": 0.123456, "h": 12345.6, "i": 12,
    }  # fmt: skip
    text = render(results(part=[cells]))
    assert "| a | b | c | d | e | f | some bytes | g | h | i |" in text
    assert "| yes | **no** | - | 3 x 429, 1 x 0 | - | x / y, z | 3 MiB | 0.1235 | 12,346 | 12 |" in text


def test_a_part_says_what_it_measures_and_how_it_ended() -> None:
    found = results(memory=[{"growth": 0.01}], serving=[])
    found["parts"]["memory"]["failed"] = "it broke"
    found["parts"]["serving"]["not_run"] = "needs CUDA"
    text = render(found)
    assert text.startswith("# a card, 80 GiB, 1.2\n")
    assert "## memory\n\nWhat is measured.\n" in text
    assert "| 0.5 | 0.6 | 100 | it broke |" in text
    assert "| 0.5 | 0.6 | 100 | needs CUDA |" in text


def test_nothing_measured_says_so() -> None:
    assert "Nothing has been measured" in render({"parts": {}})
    assert "Nothing has been measured" in render_all({})


def test_a_request_says_how_long_it_is() -> None:
    head, body = http_request("/v1/classify", {"inputs": "a"}).split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/classify HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_text_sets_are_what_the_tables_say() -> None:
    assert len(read_texts("reviews")) == 1000
    assert len(read_texts("mix")) == 400
