"""Check the CUDA path on one GPU: `python -m benchmarks.gpu_check`, in the server's environment; needs no network.

Prints one Markdown table and writes `gpu-<card>.json`. The results of a part replace those of an earlier run of it. With
`--device cpu` the check itself is tried, on small models.
"""

import argparse
import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.common import Row, say
from benchmarks.gpu_check.bench import NotRun
from benchmarks.gpu_check.bundles import Bundles, ExportFailed
from benchmarks.gpu_check.card import describe_card, versions
from benchmarks.gpu_check.forms import FORMS
from benchmarks.gpu_check.part import PARTS
from benchmarks.gpu_check.report import render
from benchmarks.machine import describe_machine
from benchmarks.systems import ROOT

RESULTS: Final = Path(__file__).parent.parent / "results"
CACHE: Final = Path(__file__).parent.parent / "cache"
EXPORT_PYTHON: Final = ROOT / ".venv-export/bin/python"
STOP_WITHIN_S: Final = 20.0


def main() -> int:
    """Run what was asked for; return 1 if a part failed or an answer was wrong."""
    options = _options()
    try:
        card = describe_card(options.device)
    except NotRun as reason:
        say(f"Nothing can be checked on cuda: {reason}.")
        return 1
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"gpu-{re.sub('[^a-z0-9]+', '-', card['name'].lower()).strip('-')}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}, "not_run": {}}
    results["card"] = card
    ok = True
    for name in options.parts:
        say(f"part: {name}")
        started = dt.datetime.now(dt.UTC)
        machine = describe_machine(len(os.sched_getaffinity(0))) | {"versions": versions()}
        rows, ending = _run(name, options)
        ok &= "failed" not in ending and all(row.get("passed", True) for row in rows)
        results["parts"].pop(name, None)
        results["not_run"].pop(name, None)
        if rows:
            results["parts"][name] = {
                "date": started.isoformat(timespec="seconds"),
                "seconds": round((dt.datetime.now(dt.UTC) - started).total_seconds(), 1),
                "form": options.form,
                "machine": machine,
                "driver": card.get("driver"),
                "rows": rows,
                **ending,
            }
        else:
            results["not_run"][name] = ending.get("not_run") or ending.get("failed")
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(render(results))
    say(f"written: {path}")
    return 0 if ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--form", choices=tuple(FORMS), help="smoke: does everything run? full: the figures (default: full on cuda)"
    )
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        metavar="NAME,...",
        help=f"of {','.join(PARTS)} (default: all)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for the models")
    parser.add_argument(
        "--export-python",
        type=Path,
        default=EXPORT_PYTHON if EXPORT_PYTHON.exists() else Path(sys.executable),
        help="an environment that can export, for models that are not in the cache",
    )
    parser.add_argument(
        "--part-within-s", type=float, help="stop a part that takes longer, seconds (default: what its form allows)"
    )
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.form = options.form or ("full" if options.device == "cuda" else "smoke")
    options.part_within_s = options.part_within_s or FORMS[options.form].part_within_s
    if options.device == "cpu" and options.form == "full":
        parser.error("the full form would take a CPU hours: --device cpu goes with --form smoke")
    return options


def _run(name: str, options: argparse.Namespace) -> tuple[list[Row], Row]:
    """Run a part in a process of its own; return its rows and how it ended."""
    bundles = Bundles(options.export_python, options.cache, options.device)
    try:
        for model in FORMS[options.form].models(name):
            bundles.folder(model)
    except (ExportFailed, subprocess.TimeoutExpired) as error:
        return [], {"failed": f"{type(error).__name__}: {error}"[:500]}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "rows"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.gpu_check.part", name, "--device", options.device),
                *("--form", options.form, "--cache", str(options.cache.absolute()), "--output", str(output)),
                # Its interpreter is a link: resolved, it would be the one that the environment was made from.
                *("--export-python", str(options.export_python.absolute())),
            ],
            cwd=ROOT,
            # CUDA's first card is then the first of the management library too.
            env=os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        )
        try:
            process.wait(options.part_within_s)
            ending = {"failed": f"the process ended with status {process.returncode}"}
        except subprocess.TimeoutExpired:
            ending = {"failed": f"it was not done after {options.part_within_s:g} s"}
        finally:
            _end(process)
        lines: list[Row] = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    rows = [line["row"] for line in lines if "row" in line]
    if lines and "row" not in lines[-1]:
        ending = {key: value for key, value in lines[-1].items() if key != "done"}
    return rows, ending


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
