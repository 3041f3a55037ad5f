"""Write results as Markdown: a table for each kind of row, whose columns are the row's fields.

A device has a report of its own, with every row. One report of all devices has the best setting of each server.

Rows of several rounds that agree in all their texts are shown as one, with the medians of their numbers.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]
"""One measurement, as it goes into the JSON file of results."""


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def render(results: Mapping[str, Any]) -> str:
    """Return the report: what was measured where and when, then the tables of each part."""
    parts = results.get("parts")
    if not parts:
        return "Nothing has been measured.\n"
    newest = max(parts.values(), key=lambda part: part["date"])["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in newest["versions"].items())
    device = results["device"]
    memory = [f"{device['memory_bytes'] / 2**30:.0f} GiB", device["driver"]] if "driver" in device else []
    lines = [f"# {', '.join([device_title(device), *memory])}", ""]
    lines += [f"{newest['cpu']}, {newest['cores']} cores. {versions}.", ""]
    lines += _table([{"part": name, **_summary(part)} for name, part in parts.items()])
    for name, part in parts.items():
        for kind in dict.fromkeys(row.get("kind", "") for row in part["rows"]):
            lines += [f"## {name}{kind and ': '}{kind}", "", part["about"], "", *_table(_rows(results, part, kind))]
    return "\n".join(lines)


def render_all(devices: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one report of several devices: told the results by the file of each device's own report.

    The best setting of each server is shown, by the texts, and of everything else each row.
    """
    if not devices:
        return "Nothing has been measured.\n"
    lines = ["# Benchmark results", ""]
    lines += [
        "What was measured, in tables over all processors. Of a server with an engine, the best setting is shown;"
    ]
    lines += ["the others are in the report of each processor. Compare figures within a processor.", ""]
    lines += _table([row for file, results in devices.items() for row in _circumstances(file, results)])
    for name in dict.fromkeys(name for results in devices.values() for name in results["parts"]):
        measured = [(results, results["parts"][name]) for results in devices.values() if name in results["parts"]]
        for kind in dict.fromkeys(row.get("kind", "") for _, part in measured for row in part["rows"]):
            if kind == "sweep":
                continue
            rows = [row for results, part in measured for row in _best_settings(results, part, kind)]
            lines += [f"## {name}{kind and ': '}{kind}", "", measured[0][1]["about"], "", *_table(rows)]
    return "\n".join(lines)


def device_title(device: Mapping[str, Any]) -> str:
    """Return the name of a device; a processor's with its cores and instruction sets, as others have the same name."""
    if "cores" not in device:
        return str(device["name"])
    return f"{device['name']}, {device['cores']} cores, {' '.join(device['instruction_sets'])}"


def _circumstances(file: str, results: Mapping[str, Any]) -> list[Row]:
    processor = device_title(results["device"])
    return [
        {"processor": processor, "report": f"[{file}]({file})", "part": name, **_summary(part)}
        for name, part in results["parts"].items()
    ]


def _best_settings(results: Mapping[str, Any], part: Mapping[str, Any], kind: str) -> list[Row]:
    """Return the rows of a kind; of rates of a server by setting the best one for the same texts, of its failures one."""
    rows = _rows(results, part, kind)
    if _are_rates(rows) or kind == "not measured":
        best: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            best.setdefault(tuple(row.get(name) for name in ("model", "server", "engine", "texts")), row)
        rows = list(best.values())
    processor = device_title(results["device"])
    return [{"processor": processor, **row} for row in rows]


def _rows(results: Mapping[str, Any], part: Mapping[str, Any], kind: str) -> list[Row]:
    """Return the rows of a kind with medians of rounds, the fastest server first."""
    rows = medians(row | _of_offline(row, results) for row in part["rows"] if row.get("kind", "") == kind)
    if _are_rates(rows):
        return sorted(rows, key=lambda row: (row.get("texts") or "", -row["requests_per_s"]))
    return rows


def _are_rates(rows: Sequence[Row]) -> bool:
    return bool(rows) and "server" in rows[0] and "requests_per_s" in rows[0]


def medians(rows: Iterable[Row]) -> list[Row]:
    """Return one row for all that agree in their texts: numbers are medians, the rest is that of the first row."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(value for value in row.values() if isinstance(value, str)), []).append(row)
    return [{name: _median([row.get(name) for row in group]) for name in group[0]} for group in groups.values()]


def _median(values: Sequence[Any]) -> Any:  # noqa: ANN401 - of JSON
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return median(values) if numbers else values[0]


def _summary(part: Mapping[str, Any]) -> Row:
    machine = part["machine"]
    return {
        **{name: part[name] for name in ("form", "rounds", "date", "seconds")},
        "load_average_before": machine["load_average"],
        "load_average_after": part["load_average_after"],
        "gemm_gflops": machine["gemm_gflops"],
        "ended": part.get("failed") or part.get("not_run") or "done",
    }


def _of_offline(row: Row, results: Mapping[str, Any]) -> Row:
    """Return how much of the engine's own rate on the same texts is served, where both were measured: of the held one, if any."""
    if not row.get("tokens_per_s") or "budget" in row:
        return {}
    alone = [
        other
        for other in results["parts"].get("offline", {"rows": ()})["rows"]
        if "tokens_per_s" in other and all(other[name] == row.get(name) for name in ("model", "precision", "texts"))
    ]
    rates = [other["tokens_per_s"] for other in [one for one in alone if "held_s" in one] or alone]
    return {"of_offline": row["tokens_per_s"] / max(rates)} if rates else {}


def _table(rows: Sequence[Row]) -> list[str]:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "kind"]
    cells = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    cells += [[_cell(name, row.get(name)) for name in names] for row in rows]
    return [*(f"| {' | '.join(line)} |" for line in cells), ""]


def _cell(name: str, value: Any) -> str:  # noqa: ANN401 - of JSON
    if isinstance(value, dict):
        value = [f"{count} x {status}" for status, count in value.items()]
    if isinstance(value, list):
        return ", ".join(_cell("", one) for one in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int | float) and name.endswith("bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else " ".join(str(value).replace("|", "/").split())
