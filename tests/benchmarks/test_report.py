"""The report: medians, ratios and what it says of what was not measured."""

from typing import Any

from benchmarks.report import closed, medians, ratio, render
from benchmarks.texts import http_request, read_texts


def row(system: str, setting: str, rate: float, number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "kind": "closed", "texts": "reviews", "system": system, "setting": setting, "round": number, "requests": 10,
        "rate_per_s": rate, "tokens_per_s": 27 * rate, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 0, "gemm_gflops": 100.0,
        **more,
    }  # fmt: skip


def results(**parts: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {
        "cpu": "a CPU", "cores": 2, "gemm_gflops": 100.0, "load_average_before": [0.0], "load_average_after": [0.0],
        "versions": {"onnxruntime": "1"},
    }  # fmt: skip
    return {
        name.replace("_", "-"): {"started": "today", "seconds": 1, "machine": machine, "rows": rows}
        for name, rows in parts.items()
    }


def test_figures_of_several_rounds_are_medians() -> None:
    rounds = [row("mosec", "batch 16", rate, i) for i, rate in enumerate((10.0, 30.0, 11.0))]
    [merged] = medians(rounds, "system", "setting")
    assert merged["rate_per_s"] == 11.0


def test_the_fastest_comes_first_and_other_texts_are_left_out() -> None:
    rows = [row("a", "x", 1.0), row("b", "x", 3.0), row("b", "y", 2.0), row("c", "x", 9.0, texts="mix")]
    assert [(r["system"], r["setting"]) for r in closed(rows, "reviews")] == [("b", "x"), ("b", "y"), ("a", "x")]


def test_ratios_are_to_the_best_of_the_peers() -> None:
    text = render(
        results(
            base=[
                row("this server", "fp32, 1 process", 40.0),
                row("mosec", "batch 16, 1 x 2 threads", 20.0),
                row("LitServe", "batch 16, 1 x 2 threads", 16.0),
                row("FastAPI", "no batching, 1 x 2 threads", 30.0),
            ]
        )
    )
    assert "| BERT-base fp32, against the best at batch 16 (mosec) | 1.9 x | 2.00 x |" in text
    assert "(FastAPI, no batching, 1 x 2 threads) | 1.25 x | 1.33 x |" in text


def test_what_was_refused_is_told_beside_the_latency_of_the_rest() -> None:
    fair = {
        "setting": "fp32, 1 process", "requests": 24, "refused": 20, "p50_ms": 300.0, "p99_ms": 500.0, "batch_ms": 250.0,
        "p99_batches": 2.0, "alone_p50_ms": 30.0,
    }  # fmt: skip
    text = render(results(fairness=[fair]))
    assert (
        "| beside bulk, p99 of 4 texts (fp32, 1 process) | 2.5 batches at most | 2.00 batches, 20 of 24 refused |"
        in text
    )
    assert "| 4 of 24 |" in text


def test_the_threads_of_the_engines_process_are_added_up() -> None:
    rows = [
        {
            "round": number, "in_flight": 192, "requests_per_batch": 96.0, "rate_per_s": 20000.0, "event_loop_us": loop_us,
            "launcher_us": 3.0, "waiter_us": 1.0,
        }
        for number, loop_us in enumerate((16.0, 18.0, 40.0))
    ]  # fmt: skip
    assert "| 192 | 96 | 20000 | 18.0 | 3.0 | 1.0 | 22.0 |" in render(results(engine_process=rows))


def test_a_p99_is_shown_of_enough_samples_only() -> None:
    few = render(results(base=[row("mosec", "x", 1.0, requests=499)]))
    many = render(results(base=[row("mosec", "x", 1.0, requests=500)]))
    assert "| mosec | x | 1 | 27 | 1 ms | 100% |" in few
    assert "| mosec | x | 1 | 27 | 1 ms | 2 ms | 100% |" in many


def test_machine_speed_is_relative_to_the_median_row() -> None:
    rows = [row(name, "x", 1.0, gemm_gflops=speed) for name, speed in (("a", 50.0), ("b", 100.0), ("c", 110.0))]
    text = render(results(base=rows))
    assert [line.split("|")[-2].strip() for line in text.splitlines() if "| x |" in line] == ["50%", "100%", "110%"]


def test_a_server_that_did_not_start_is_named() -> None:
    failed = {"kind": "failed", "system": "infinity (torch)", "setting": "batch 16", "error": "x"}
    assert "infinity (torch), batch 16: not measured" in render(results(base=[row("mosec", "x", 1.0), failed]))


def test_nothing_measured_says_so() -> None:
    assert "Nothing has been measured" in render({})


def test_a_request_says_how_long_it_is() -> None:
    head, body = http_request("/v1/classify", {"inputs": "a"}).split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/classify HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_text_sets_are_what_the_tables_say() -> None:
    assert len(read_texts("reviews")) == 1000
    assert len(read_texts("mix")) == 400


def turn(system: str, setting: str, number: int, rate: float) -> dict[str, Any]:
    return {"model": "tiny", "round": number, "system": system, "setting": setting, "rate_per_s": rate}


def test_ratios_side_by_side_are_those_within_a_round() -> None:
    """The machine is half as fast in the second round, for all of them."""
    speeds = (1.0, 0.5, 1.0)
    rows = [
        turn(system, setting, number, rate * speed)
        for number, speed in enumerate(speeds)
        for system, setting, rate in (
            ("this server", "fp32, 1 process", 30.0),
            ("mosec", "batch 16, 1 x 2 threads", 15.0),
            ("mosec", "no batching, 2 x 1 threads", 18.0),
            ("FastAPI", "no batching, 2 x 1 threads", 20.0),
        )
    ]
    ours, mosec = rows[0], rows[1]
    assert ratio(rows, ours, [mosec]) == 2.0
    rows[4]["rate_per_s"] = 3.0  # a stall of ours in one round is not the median
    assert ratio(rows, ours, [mosec]) == 2.0
    text = render(results(side_by_side=rows))
    assert "| 2-layer BERT fp32, side by side with mosec at batch 16 | 1.5 x | 2.00 x (fp32, 1 process) |" in text
    assert (
        "| 2-layer BERT fp32, side by side with the best without batching | 1.5 x | 1.50 x (fp32, 1 process) |" in text
    )
    assert "in turns, 3 rounds" in text
