"""Run parts, each in a process of its own, and write what they measure: the command line of both commands.

The results of a part replace those of an earlier run of it.
"""

import argparse
import datetime as dt
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from app.bundle.manifest import Precision, Target
from benchmarks.bench import Bench
from benchmarks.bundles import ROOT, Bundles, ExportFailed
from benchmarks.machine import NotRun, describe_device, describe_machine
from benchmarks.report import Row, device_title, render, render_all, say

HERE: Final = Path(__file__).parent
STOP_WITHIN_S: Final = 20.0
STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
UNFINISHED: Final = "it was not finished"
"""What stands in the results while a part runs, and stays if this process is killed."""

Message = tuple[str, Any]
"""From a part: `row` and a row, or how it ended: `done`, `not_run` or `failed`, and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured, and the models that are exported before. The first paragraph of its docstring is in the report."""

    measure: "partial[Iterator[Row]]"
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """How much is measured: each part with its amounts, all of it `rounds` times."""

    parts: Mapping[str, Part]
    part_within_s: float
    """A part that takes longer is stopped."""
    rounds: int = 1
    devices: tuple[Target, ...] = ("cpu",)


@dataclass(frozen=True, slots=True)
class Command:
    """One of the two commands.

    Attributes:
        name: Of its files of results, before the name of the device.
        about: For `--help`.
        forms: By name. The first is the default, and its first device is.
        precisions: What is measured, if not the default of the device.
    """

    name: str
    about: str
    forms: Mapping[str, Form]
    precisions: tuple[Precision, ...] = ()


def run(command: Command, arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if a part failed or an answer was wrong.

    SIGTERM, SIGINT and SIGHUP end the part that runs. What it has measured is written, and told to be a part of it.
    """
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup has a process ignore SIGHUP
            signal.signal(number, _exit)
    options = _options(command, arguments)
    if options.report:
        for path in options.results.glob(f"{command.name}-*.json"):
            _write(json.loads(path.read_text()), path)
        _write_all(options.results)
        return 0
    form = command.forms[options.form]
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # CUDA's first card is then the first of the management library too
    try:
        device = describe_device(options.device)
    except NotRun as reason:
        say(f"Nothing can be measured on {options.device}: {reason}.")
        return 1
    bundles = Bundles(options.export_python, options.cache, options.device, command.precisions)
    bench = Bench(options.device, bundles, options.rounds or form.rounds)
    options.results.mkdir(parents=True, exist_ok=True)
    name = re.sub("[^a-z0-9]+", "-", device_title(device).lower()).strip("-")
    path = options.results / f"{command.name}-{name}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    results["device"] = device
    status = 0
    for part in options.parts:
        say(f"part: {part}")
        measured: dict[str, Any] = {"form": options.form, "rounds": bench.rounds}
        within_s = options.part_within_s or form.part_within_s
        try:
            with closing(_measure(measured, form.parts[part], bench, within_s)) as more:
                for _ in more:
                    results["parts"].pop(part, None)
                    results["parts"][part] = measured
                    _write_json(results, path)
        except SystemExit as stopped:
            status = int(stopped.code or 0)
            measured["failed"] = f"stopped by {signal.Signals(status - 128).name}"
            say(f"part: {part}: {measured['failed']}")
            break
        if "failed" in measured or not all(row.get("passed", True) for row in measured["rows"]):
            status = 1
    _write_json(results, path)
    _write(results, path)
    _write_all(options.results)
    return status


def _write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write the results whole: a process that is killed meanwhile leaves those that were there."""
    whole = path.with_suffix(".partial")
    whole.write_text(json.dumps(results, indent=1) + "\n")
    whole.replace(path)


def _write(results: Mapping[str, Any], path: Path) -> None:
    report = render(results)
    path.with_suffix(".md").write_text(report)
    print(report)
    say(f"written: {path.with_suffix('.md')}")


def _write_all(folder: Path) -> None:
    """Write one report of all devices that were measured, whichever command did it."""
    found = {path.with_suffix(".md").name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    path = folder / "results.md"
    path.write_text(render_all(found))
    say(f"written: {path}")


def _options(command: Command, arguments: Sequence[str] | None) -> argparse.Namespace:
    default_form = next(iter(command.forms.values()))
    names = tuple(default_form.parts)
    devices = tuple(dict.fromkeys(device for form in command.forms.values() for device in form.devices))
    parser = argparse.ArgumentParser(description=command.about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=names,
        metavar="NAME,...",
        help=f"of {','.join(names)} (default: all)",
    )
    parser.add_argument(
        "--form", choices=tuple(command.forms), help="how much is measured; smoke: does everything run?"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="measure everything so often, not as the form says")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the tables again")
    parser.add_argument("--device", choices=devices, default=default_form.devices[0])
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--cache", type=Path, default=HERE / "cache", help="folder for the models")
    export_python = ROOT / ".venv-export/bin/python"
    parser.add_argument(
        "--export-python",
        type=Path,
        default=export_python if export_python.exists() else Path(sys.executable),
        help="an environment that can export, for models that are not in the cache",
    )
    parser.add_argument(
        "--part-within-s", type=float, help="stop a part that takes longer, seconds (default: what its form allows)"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(names)}")
    fitting = [name for name, form in command.forms.items() if options.device in form.devices]
    options.form = options.form or fitting[0]
    if options.form not in fitting:
        parser.error(f"--device {options.device} goes with --form {' or '.join(fitting)}")
    return options


def _measure(measured: dict[str, Any], part: Part, bench: Bench, within_s: float) -> Generator[None]:
    """Fill in what is measured, and yield whenever there is more, last when it tells how the part ended."""
    rows: list[Row] = []
    started_at = time.monotonic()
    measured |= {
        "about": (part.measure.func.__doc__ or "").partition("\n\n")[0],
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "rows": rows,
        "failed": UNFINISHED,
    }
    for kind, value in _messages(part, bench, within_s):
        if kind == "row":
            rows.append(value)
        else:
            del measured["failed"]
            if kind != "done":
                measured[kind] = value
        measured["load_average_after"] = round(os.getloadavg()[0], 2)
        measured["seconds"] = round(time.monotonic() - started_at, 1)
        yield


def _messages(part: Part, bench: Bench, within_s: float) -> Iterator[Message]:
    """Run a part in a process of its own: a GPU that one part has broken is whole again for the next."""
    try:
        for model in part.models:
            bench.bundles.folder(model)
    except (ExportFailed, subprocess.TimeoutExpired) as error:
        yield "failed", f"{type(error).__name__}: {error}"[:500]
        return
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_part, args=(part, bench, sender))
    process.start()
    sender.close()
    until = time.monotonic() + within_s
    kind = "row"
    try:
        while kind == "row" and receiver.poll(max(0.0, until - time.monotonic())):
            kind, value = receiver.recv()
            yield kind, value
        if kind == "row":
            yield "failed", f"it was not done after {within_s:g} s"
    except EOFError:
        process.join(STOP_WITHIN_S)
        yield "failed", f"the process ended with status {process.exitcode}"
    finally:
        if kind == "row":
            process.terminate()
        process.join(STOP_WITHIN_S)
        process.kill()
        process.join()
        receiver.close()


def _run_part(part: Part, bench: Bench, sender: Connection) -> None:
    signal.signal(signal.SIGTERM, _exit)
    # A terminal sends these to every process. The one that reads the rows ends this one.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        for row in part.measure(bench):
            sender.send(("row", row))
    except NotRun as reason:
        sender.send(("not_run", str(reason)))
    except Exception as error:
        traceback.print_exc()
        sender.send(("failed", f"{type(error).__name__}: {error}"[:500]))
    else:
        sender.send(("done", None))


def _exit(number: int, _: object) -> None:
    """End as after an error, so that servers that run are ended on the way out, which another signal does not cut short."""
    for one in STOPPING:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)
