"""Write the results as Markdown. Figures of several rounds are medians."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, Final

Row = Mapping[str, Any]

ENOUGH: Final = 500
"""A p99 is shown of so many samples or more: of 90 it would be the slowest one."""

MODELS: Final = {
    "base": "BERT-base (12 layers, 768 wide, random weights)",
    "tiny": "2 layers, 128 wide, so small that the server is what is measured",
}
TEXTS: Final = {"reviews": "review sentences, 27.5 tokens on average", "mix": "5 to 379 tokens, 90 on average"}
FRONT_ENDS: Final = {
    "asgi": "raw ASGI under uvicorn: constant answer, nothing read",
    "fastapi-bare": "idiomatic FastAPI route: validates, no tokenizer",
    "fastapi": "idiomatic FastAPI route with this service's work: tokenizer, scores",
    "ours": "this service, its engine replaced by one that answers at once",
}


def render(results: Mapping[str, Any]) -> str:
    """Return the report."""
    sections = [
        *_machine(results),
        *_reached(results),
        *(line for model in MODELS if model in results for line in _serving(model, results[model]["rows"])),
        *_offline(results),
        *_side_by_side(results),
        *_own_engine(results),
        *_front_end(results),
        *_engine_process(results),
        *_idle(results),
        *_overload(results),
        *_fairness(results),
    ]
    return "\n".join(sections) + "\n"


def medians(rows: Iterable[Row], *by: str) -> list[dict[str, Any]]:
    """Return one row for each value of the columns `by`: numbers are medians, the rest is that of the first row."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    merged = []
    for group in groups.values():
        first = dict(group[0])
        for name, value in group[0].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                first[name] = median(row[name] for row in group)
        merged.append(first)
    return merged


def closed(rows: Iterable[Row], texts: str) -> list[dict[str, Any]]:
    """Return what each system in each setting reached in a closed loop, the fastest first."""
    chosen = [row for row in rows if row.get("kind") == "closed" and row["texts"] == texts]
    return sorted(medians(chosen, "system", "setting"), key=lambda row: -row["rate_per_s"])


def _machine(results: Mapping[str, Any]) -> list[str]:
    lines = ["# Benchmark results", ""]
    if not results:
        return [*lines, "Nothing has been measured. Run `make bench`."]
    first = next(iter(results.values()))["machine"]
    lines += [
        f"{first['cpu']}, {first['cores']} cores. "
        + ", ".join(f"{name} {number}" for name, number in first["versions"].items())
        + ".",
        "",
        "| part | started | took | load average before and after | matrix products, GFLOP/s |",
        "|---|---|---|---|---|",
    ]
    for name, part in results.items():
        machine = part["machine"]
        before, after = machine["load_average_before"][0], machine["load_average_after"][0]
        lines.append(
            f"| {name} | {part['started']} | {part['seconds']} s | {before} / {after} | {machine['gemm_gflops']:.0f} |"
        )
    return [*lines, ""]


# --- what it must reach


def _reached(results: Mapping[str, Any]) -> list[str]:
    """Return the ratios that the project holds itself to, where they were measured."""
    lines = ["## Measured against the aims", "", "| aim | at least | measured |", "|---|---|---|"]
    for aim, bound, value in _aims(results):
        lines.append(f"| {aim} | {bound} | {value} |")
    return [*lines, ""] if len(lines) > 4 else []


def _aims(results: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    if "base" in results:
        yield from _aims_of_base(results)
    if "tiny" in results:
        rows = closed(results["tiny"]["rows"], "reviews")
        mosec = _best(rows, lambda row: row["system"] == "mosec")
        for precision in ("fp32", "int8"):
            ours = _best(rows, partial(_is_ours_in, precision))
            if ours and mosec:
                value = f"{_ratio(ours, mosec)} ({ours['setting']})"
                yield f"2-layer BERT {precision}, against mosec at its best", "1.5 x", value
    yield from _aims_side_by_side(results.get("side-by-side", {}).get("rows", []))
    for row in medians(results.get("own-engine", {}).get("rows", ()), "setting"):
        yield f"BERT-base, against its own engine alone ({row['setting']})", "0.95 x", f"{row['share']:.2f} x"
    if "front-end" in results:
        rows = medians(results["front-end"]["rows"], "system")
        rate = {row["system"]: row["rate_per_s"] for row in rows}
        yield "front end, against an idiomatic FastAPI route", "3 x", f"{rate['ours'] / rate['fastapi']:.2f} x"
    for row in results.get("idle", {}).get("rows", ()):
        bound = "1 ms at most" if "1 process" in row["setting"] else "1.5 ms at most"
        yield f"idle, added to the bare run ({row['model']}, {row['setting']})", bound, f"{row['added_ms']:.2f} ms"
    for row in medians(results.get("overload", {}).get("rows", ()), "setting"):
        yield f"overload, goodput in tokens ({row['setting']})", "0.95 x", f"{row['goodput_share']:.2f} x"
        yield f"overload, refusals p99 ({row['setting']})", "20 ms at most", _ms(row["refusal_p99_ms"])
    for row in medians(results.get("fairness", {}).get("rows", ()), "setting"):
        refused = f", {row['refused']:.0f} of {row['requests']} refused" if row["refused"] else ""
        value = "no answer" if row["p99_batches"] is None else f"{row['p99_batches']:.2f} batches"
        aim = f"beside bulk, p99 of {row['requests'] - row['refused']:.0f} texts ({row['setting']})"
        yield aim, "2.5 batches at most", value + refused


def _aims_of_base(results: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    rows = closed(results["base"]["rows"], "reviews")
    at_16 = _best(rows, lambda row: not _is_ours(row) and "batch 16" in row["setting"])
    any_peer = _best(rows, lambda row: not _is_ours(row))
    for precision, bound in (("fp32", "1.9 x"), ("int8", "4 x")):
        ours = _best(rows, partial(_is_ours_in, precision))
        if ours and at_16 and any_peer:
            yield f"BERT-base {precision}, against the best at batch 16 ({at_16['system']})", bound, _ratio(ours, at_16)
            best = f"BERT-base {precision}, against the best of all ({any_peer['system']}, {any_peer['setting']})"
            yield best, "1.25 x" if precision == "fp32" else "", _ratio(ours, any_peer)


def _aims_side_by_side(rows: list[dict[str, Any]]) -> Iterable[tuple[str, str, str]]:
    bounds = {
        ("base", "fp32"): ("1.9 x", "1.25 x"),
        ("base", "int8"): ("4 x", ""),
        ("tiny", "fp32"): ("1.5 x", "1.5 x"),
        ("tiny", "int8"): ("1.5 x", "1.5 x"),
    }
    for (model, precision), (bound_at_16, bound) in bounds.items():
        chosen = [row for row in rows if row["model"] == model]
        merged = medians(chosen, "system", "setting")
        ours = _best(merged, partial(_is_ours_in, precision))
        at_16 = [row for row in merged if not _is_ours(row) and "batch 16" in row["setting"]]
        unbatched = [row for row in merged if not _is_ours(row) and "no batching" in row["setting"]]
        name = f"{'BERT-base' if model == 'base' else '2-layer BERT'} {precision}, side by side"
        for peers, aim, what in (
            (at_16, bound_at_16, "mosec at batch 16"),
            (unbatched, bound, "the best without batching"),
        ):
            if ours and peers:
                value = f"{ratio(chosen, ours, peers):.2f} x ({ours['setting']})"
                yield f"{name} with {what}", aim, value


def ratio(rows: Sequence[Row], ours: Row, peers: Sequence[Row]) -> float:
    """Return the median over the rounds of a system's rate to that of the best of some others in the same round."""

    def rate(row: Row, number: int) -> float:
        [found] = [
            float(one["rate_per_s"])
            for one in rows
            if (one["system"], one["setting"], one["round"]) == (row["system"], row["setting"], number)
        ]
        return found

    numbers = {row["round"] for row in rows}
    return median(rate(ours, number) / max(rate(peer, number) for peer in peers) for number in numbers)


def _is_ours(row: Row) -> bool:
    return bool(row["system"] == "this server")


def _is_ours_in(precision: str, row: Row) -> bool:
    return _is_ours(row) and precision in row["setting"]


def _best(rows: Sequence[Row], belongs: Callable[[Row], bool]) -> Row | None:
    return max(filter(belongs, rows), key=lambda row: row["rate_per_s"], default=None)


def _ratio(row: Row, other: Row) -> str:
    return f"{row['rate_per_s'] / other['rate_per_s']:.2f} x"


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms"


# --- tables


def _serving(model: str, rows: Sequence[Row]) -> list[str]:
    lines = [
        f"## Served: {MODELS[model]}",
        "",
        "Machine speed: matrix products per second just before the row was measured, relative to the table's median row.",
        "",
    ]
    for texts, description in TEXTS.items():
        measured = closed(rows, texts)
        if not measured:
            continue
        probe = median(row["gemm_gflops"] for row in measured)
        lines += [
            f"32 connections, closed loop, {description}; {measured[0]['requests']:.0f} requests to each server.",
            "",
        ]
        has_p99 = all(row["requests"] >= ENOUGH for row in measured)
        p99 = ["p99"] if has_p99 else []
        lines += _head("server", "setting", "requests/s", "tokens/s", "p50", *p99, "machine speed")
        for row in measured:
            name = f"**{row['system']}**" if _is_ours(row) else row["system"]
            failed = f", {row['failed']:.0f} failed" if row["failed"] else ""
            lines += _line(
                name,
                f"{row['setting']}{failed}",
                f"{row['rate_per_s']:.4g}",
                f"{row['tokens_per_s']:.0f}",
                f"{row['p50_ms']:.4g} ms",
                *([f"{row['p99_ms']:.4g} ms"] if has_p99 else []),
                f"{row['gemm_gflops'] / probe:.0%}",
            )
        lines.append("")
    for row in medians((row for row in rows if row["kind"] == "failed"), "system", "setting"):
        lines += [f"{row['system']}, {row['setting']}: not measured, it did not start.", ""]
    return lines


def _offline(results: Mapping[str, Any]) -> list[str]:
    if "offline" not in results:
        return []
    lines = ["## The engine alone", ""]
    for part in results["offline"]["rows"]:
        limit = max(row["tokens_per_s"] for row in part["rows"] if row["layout"] == "matrix products alone")
        lines += [
            f"{MODELS.get(part['model'], part['model'])}; {part['tokens']} tokens of review sentences.",
            "",
            "| layout | size | precision | threads | tokens/s | of the fp32 matrix products |",
            "|---|---|---|---|---|---|",
        ]
        for row in part["rows"]:
            lines.append(
                f"| {row['layout']} | {row['size']} | {row['precision']} | {row['threads']} | "
                f"{row['tokens_per_s']:.0f} | {row['tokens_per_s'] / limit:.0%} |"
            )
    lines += [
        "",
        "Size: tokens in a batch where packed, rows of matrix products alone, else texts per run.",
        "In its last layer this project's graph computes only what is answered, so it can exceed 100%.",
        "",
    ]
    return lines


def _side_by_side(results: Mapping[str, Any]) -> list[str]:
    rows = results.get("side-by-side", {}).get("rows", [])
    lines: list[str] = []
    for model, description in MODELS.items():
        merged = sorted(
            medians([row for row in rows if row["model"] == model], "system", "setting"),
            key=lambda row: -row["rate_per_s"],
        )
        if merged:
            rounds = 1 + max(row["round"] for row in rows if row["model"] == model)
            lines += [f"## Side by side: {description}", ""]
            lines += [f"All servers run at once and get review sentences in turns, {rounds} rounds; medians.", ""]
            lines += ["| server | setting | requests/s |", "|---|---|---|"]
            lines += [
                f"| {'**this server**' if _is_ours(row) else row['system']} | {row['setting']} | {row['rate_per_s']:.4g} |"
                for row in merged
            ]
            lines.append("")
    return lines


def _own_engine(results: Mapping[str, Any]) -> list[str]:
    if "own-engine" not in results:
        return []
    lines = [
        "## Served, and the same engine without a server",
        "",
        "BERT-base, review sentences, batches of the same token budget.",
        "",
    ]
    lines += ["| setting | budget, tokens | alone, tokens/s | served, tokens/s | share |", "|---|---|---|---|---|"]
    for row in medians(results["own-engine"]["rows"], "setting"):
        lines.append(
            f"| {row['setting']} | {row['budget_tokens']:.0f} | {row['alone_tokens_per_s']:.0f} | "
            f"{row['served_tokens_per_s']:.0f} | {row['share']:.0%} |"
        )
    return [*lines, ""]


def _front_end(results: Mapping[str, Any]) -> list[str]:
    if "front-end" not in results:
        return []
    lines = ["## The front end alone", "", "One core, 32 connections, closed loop, review sentences.", ""]
    lines += ["| server | requests/s | generator's CPU |", "|---|---|---|"]
    for row in sorted(medians(results["front-end"]["rows"], "system"), key=lambda row: -row["rate_per_s"]):
        lines.append(f"| {FRONT_ENDS[row['system']]} | {row['rate_per_s']:.0f} | {row['generator_cpu']:.0%} |")
    return [*lines, ""]


def _engine_process(results: Mapping[str, Any]) -> list[str]:
    if "engine-process" not in results:
        return []
    lines = [
        "## The engine's process, without the model",
        "",
        "Single texts of 27.5 tokens from 12 front ends; the device sleeps for as long as a large GPU computes.",
        "Processor time a request, in us, of which 30,000 requests/s leave 33.",
        "",
        "| in flight | in a batch | requests/s | event loop | launching | waiting | together |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in medians(results["engine-process"]["rows"], "in_flight"):
        threads = [row["event_loop_us"], row["launcher_us"], row["waiter_us"]]
        shown = " | ".join(f"{one:.1f}" for one in [*threads, sum(threads)])
        batch = f"{row['in_flight']:.0f} | {row['requests_per_batch']:.0f} | {row['rate_per_s']:.0f}"
        lines.append(f"| {batch} | {shown} |")
    return [*lines, ""]


def _idle(results: Mapping[str, Any]) -> list[str]:
    if "idle" not in results:
        return []
    lines = ["## Idle, one short text at a time", ""]
    rows = results["idle"]["rows"]
    has_p99 = all(row.get("requests", 0) >= ENOUGH for row in rows)
    p99 = ["p99"] if has_p99 else []
    lines += _head("model", "setting", "p50", "bare session run p50", "added", "the server's own run, mean", *p99)
    for row in rows:
        lines += _line(
            row["model"],
            row["setting"],
            f"{row['p50_ms']:.2f} ms",
            f"{row['bare_p50_ms']:.2f} ms",
            f"{row['added_ms']:.2f} ms",
            _ms(row.get("run_ms")),
            *([f"{row['p99_ms']:.2f} ms"] if has_p99 else []),
        )
    lines += [
        "",
        "The bare session run is in another process. The server's own run is measured from the queue to the results.",
    ]
    return [*lines, ""]


def _overload(results: Mapping[str, Any]) -> list[str]:
    if "overload" not in results:
        return []
    lines = ["## Overload: three times the load that it can serve", ""]
    rows = medians(results["overload"]["rows"], "setting")
    has_p99 = all(row.get("answered", 0) >= ENOUGH for row in rows)
    lines += _head(
        "setting",
        "best, requests/s",
        "goodput, requests/s",
        "best, tokens/s",
        "goodput, tokens/s",
        "refusals p50 / p99",
        *(["answers p99"] if has_p99 else []),
    )
    for row in rows:
        lines += _line(
            row["setting"],
            f"{row['best_per_s']:.4g}",
            f"{row['goodput_per_s']:.4g}",
            f"{row['best_tokens_per_s']:.0f}",
            f"{row['goodput_tokens_per_s']:.0f}",
            f"{_ms(row['refusal_p50_ms'])} / {_ms(row['refusal_p99_ms'])}",
            *([_ms(row["answer_p99_ms"])] if has_p99 else []),
        )
    return [*lines, ""]


def _fairness(results: Mapping[str, Any]) -> list[str]:
    if "fairness" not in results:
        return []
    lines = ["## Single texts beside a client that sends requests of 512 texts without pause", ""]
    rows = medians(results["fairness"]["rows"], "setting")
    has_p99 = all(row["requests"] - row["refused"] >= ENOUGH for row in rows)
    p99 = ["p99"] if has_p99 else []
    lines += _head("setting", "singles answered", "p50", *p99, "one batch", "p50 without bulk")
    for row in rows:
        lines += _line(
            row["setting"],
            f"{row['requests'] - row['refused']:.0f} of {row['requests']}",
            _ms(row["p50_ms"]),
            *([_ms(row["p99_ms"])] if has_p99 else []),
            _ms(row["batch_ms"]),
            _ms(row["alone_p50_ms"]),
        )
    return [*lines, ""]


def _head(*names: str) -> list[str]:
    return [*_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]
