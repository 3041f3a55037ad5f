"""The table: every figure, and beside it what it is held against."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from benchmarks.gpu_check.scores import MOST_DIFFERENCE

Row = Mapping[str, Any]
Line = tuple[str, str, str]
"""What was measured, the figure, and its aim."""

# The aims are for BERT-base in fp16 on a card of the H100's class.
AIM_OFFLINE_PER_S: Final = 15_000
AIM_SERVED_SHARE: Final = 0.9
AIM_SINGLE_PER_S: Final = 30_000
AIM_SINGLE_FRONT_ENDS: Final = 12
AIM_P99_MS: Final = 20
AIM_IDLE_MS: Final = 3
MiB: Final = 2**20


def render(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    card = results["card"]
    memory = f", {card['memory_bytes'] / 2**30:.0f} GiB" if "memory_bytes" in card else ""
    driver = f", driver {card['driver']}" if "driver" in card else ""
    lines = [f"Card: {card['name']}{memory}{driver}."]
    if results["parts"]:
        part = max(results["parts"].values(), key=lambda one: one["date"])
        machine = part["machine"]
        found = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        lines.append(f"{machine['cpu']}, {machine['cores']} cores; {found}. Last part: {part['date']}.")
    lines += ["", "| part | what | measured | aim |", "|---|---|---|---|"]
    for name, part in results["parts"].items():
        title = f"{name} ({part['form']})"
        for what, measured, aim in _LINES[name](part["rows"], results["parts"]):
            lines.append(f"| {title} | {what} | {measured} | {aim} |")
        stopped_by = part.get("failed") or part.get("not_run")
        if stopped_by:
            lines.append(f"| {title} | **stopped** | {_cell(stopped_by)} | |")
    for name, reason in results["not_run"].items():
        lines.append(f"| {name} | **not run** | {_cell(reason)} | |")
    return "\n".join(lines)


def _parity(rows: Sequence[Row], _: Mapping[str, Any]) -> Iterator[Line]:
    for row in rows:
        on_cpu = f"; nodes on the CPU: {_cell(', '.join(row['nodes_on_cpu']))}" if row["nodes_on_cpu"] else ""
        measured = (
            f"golden alone {row['golden_alone']:.2g}, golden packed {row['golden_packed']:.2g}, "
            f"{row['texts']} texts packed against alone {row['packed_against_alone']:.2g}; "
            f"scores against fp32 {row['score_difference']:.2g}, {row['flips']} of {row['answers']} sure answers changed{on_cpu}"
        )
        yield (
            f"{row['model']} {row['variant']}, largest difference",
            _judged(measured, row),
            f"<= {row['tolerance']:.2g}; scores <= {MOST_DIFFERENCE:g}, none changed",
        )


def _offline(rows: Sequence[Row], _: Mapping[str, Any]) -> Iterator[Line]:
    best = max(filter(_is_aimed_at, rows), key=lambda row: row["sequences_per_s"], default=None)
    for row in rows:
        if row["kind"] == "matrix rate":
            yield f"matrix products alone, {row['precision']}", f"{row['tflops']:.3g} TFLOP/s", ""
            continue
        what = f"{row['model']} {row['precision']}, {row['texts']}, budget {row['budget']}"
        if "reason" in row:
            yield what, f"does not fit: {_cell(row['reason'])}", ""
            continue
        measured = (
            f"{row['sequences_per_s']:,.0f} sequences/s, {row['tokens_per_s']:,.0f} tokens/s, "
            f"{row['share_of_matrix_rate']:.0%} of the matrix rate"
        )
        yield what, measured, f">= {AIM_OFFLINE_PER_S:,} sequences/s" if row is best else ""


def _is_aimed_at(row: Row) -> bool:
    return (row["kind"], row.get("model"), row.get("precision"), row.get("texts")) == (
        *("model", "base", "fp16", "128 tokens"),
    ) and "reason" not in row


def _serving(rows: Sequence[Row], parts: Mapping[str, Any]) -> Iterator[Line]:
    for row in rows:
        what = f"{row['model']} {row['precision']}, {row['front_ends']} front ends, {row['requests']}"
        failed = "".join(f", **{count} of {row['sent']} got {status}**" for status, count in row["failed"].items())
        answered = row["p50_ms"] is not None
        latency = f"p50 {row['p50_ms']:.3g} ms, p99 {row['p99_ms']:.3g} ms" if answered else "nothing was answered"
        latency += failed
        is_full = row["front_ends"] == AIM_SINGLE_FRONT_ENDS
        if row["kind"] == "idle":
            yield f"{what}, one short text at a time", latency, f"p50 < {AIM_IDLE_MS} ms"
        elif row["kind"] == "open":
            aim = f"p99 < {AIM_P99_MS} ms at {AIM_SINGLE_PER_S // 2:,}/s" if is_full and row["share"] == 0.5 else ""
            yield f"{what}, open loop at {row['share']:.0%}, {row['offered_per_s']:,.0f}/s", latency, aim
        else:
            rate = f"{row['requests_per_s']:,.0f} requests/s, {row['tokens_per_s']:,.0f} tokens/s"
            generator = f", generator {row['generator_cpu']:.0%} of a core"
            measured = f"{rate}{_of_offline(row, parts)}, {latency}{generator}"
            if row["requests"] == "batched":
                aim = f">= {AIM_SERVED_SHARE} of offline"
            else:
                aim = f">= {AIM_SINGLE_PER_S:,}/s" if is_full else ""
            yield f"{what}, {row['connections']} connections, {row['texts']}", measured, aim


def _of_offline(row: Row, parts: Mapping[str, Any]) -> str:
    """Return how much of the engine's own rate on the same texts is served, where both were measured."""
    if row["requests"] != "batched":
        return ""
    alone = [
        other["tokens_per_s"]
        for other in parts.get("offline", {"rows": ()})["rows"]
        if "tokens_per_s" in other and all(other[name] == row[name] for name in ("model", "precision", "texts"))
    ]
    return f", {row['tokens_per_s'] / max(alone):.2f} of offline" if alone else ", offline was not measured"


def _memory(rows: Sequence[Row], _: Mapping[str, Any]) -> Iterator[Line]:
    for row in rows:
        measured = (
            f"{row['after_warm_up_bytes'] / MiB:,.0f} MiB after warm-up, {row['settled_bytes'] / MiB:,.0f} after "
            f"{row['settled_after']} batches, at most {row['most_bytes'] / MiB:,.0f}, {row['end_bytes'] / MiB:,.0f} "
            f"at the end: grown by {row['growth']:.1%}"
        )
        yield f"{row['model']} {row['precision']}, {row['batches']} random batches", _judged(measured, row), "<= 5%"


def _out_of_memory(rows: Sequence[Row], _: Mapping[str, Any]) -> Iterator[Line]:
    for row in rows:
        what = f"{row['model']} {row['precision']}, limit {row['limit_bytes'] / MiB:,.0f} MiB"
        if row["kind"] == "served":
            again = "as before" if row["same_after"] else "not as before"
            measured = (
                f"{row['failed_batches']} batches failed; status {row['status']}, {row['answered']} of {row['texts']} texts "
                f"answered in halves; the next request {again}"
            )
            yield f"{what}, served", _judged(measured, row), "all answered, and the next as before"
            continue
        if "failed_at_tokens" in row:
            measured = f"reported at {row['failed_at_tokens']} tokens; later answers off by {row['answers_off']:.2g}"
        else:
            measured = f"{row['message']} up to {row['largest_tokens']} tokens"
        yield what, _judged(measured, row), "reported, and answers as before"


def _cuda_graphs(rows: Sequence[Row], _: Mapping[str, Any]) -> Iterator[Line]:
    for row in rows:
        measured = (
            f"p50 {row['normal_p50_ms']:.3g} ms, replayed {row['replayed_p50_ms']:.3g} ms, "
            f"answers off by {row['answers_off']:.2g}"
        )
        yield f"{row['model']} {row['precision']}, one text of {row['tokens']} tokens", _judged(measured, row), ""


def _judged(measured: str, row: Row) -> str:
    return measured if row["passed"] else f"{measured}: **failed**"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


_LINES: Final[Mapping[str, Callable[[Sequence[Row], Mapping[str, Any]], Iterator[Line]]]] = MappingProxyType(
    {
        "parity": _parity,
        "offline": _offline,
        "serving": _serving,
        "memory": _memory,
        "out-of-memory": _out_of_memory,
        "cuda-graphs": _cuda_graphs,
    }
)
