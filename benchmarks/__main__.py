"""Run the benchmarks and write the results: `python -m benchmarks`, in an environment with `requirements-peers.txt`.

The short form is for looking, the full one for claims: medians of three rounds, and peers swept over batch sizes. The
results of a part replace those of an earlier run of it.
"""

import argparse
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.common import say
from benchmarks.engine_process import engine_process
from benchmarks.fairness import fairness
from benchmarks.front_end import front_end
from benchmarks.idle import idle
from benchmarks.load import Stalled
from benchmarks.machine import describe_machine
from benchmarks.offline import offline
from benchmarks.overload import overload
from benchmarks.own_engine import own_engine
from benchmarks.plots import write_plots
from benchmarks.report import render
from benchmarks.serving import Amount, compare, serving_systems
from benchmarks.side_by_side import side_by_side
from benchmarks.systems import DidNotStart, Layout
from benchmarks.workplace import ROOT, Workplace, versions

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Form:
    """How much is measured."""

    name: str
    rounds: int
    batches: tuple[int, ...]
    """Of one model process with all cores."""
    batches_split: tuple[int, ...]
    """Of a model process for each core."""
    base: Amount
    tiny: Amount
    offline_texts: int
    own_engine_texts: int
    front_end_requests: int
    engine_process_requests: int
    idle_requests: int
    overload_s: float
    fairness_s: float


SMOKE: Final = Form(
    name="smoke",
    rounds=1,
    batches=(16,),
    batches_split=(1,),
    base=Amount({"reviews": 32, "mix": 16}, open_s=1),
    tiny=Amount({"reviews": 200}, open_s=0),
    offline_texts=8,
    own_engine_texts=32,
    front_end_requests=500,
    engine_process_requests=2000,
    idle_requests=20,
    overload_s=8,
    fairness_s=8,
)
SHORT: Final = Form(
    name="short",
    rounds=1,
    batches=(16,),
    batches_split=(1,),
    base=Amount({"reviews": 160, "mix": 32}, open_s=5),
    tiny=Amount({"reviews": 4000}, open_s=0),
    offline_texts=48,
    own_engine_texts=256,
    front_end_requests=8000,
    engine_process_requests=50000,
    idle_requests=100,
    overload_s=16,
    fairness_s=30,
)
FULL: Final = Form(
    name="full",
    rounds=3,
    batches=(1, 4, 16, 32),
    batches_split=(1, 4, 16),
    base=Amount({"reviews": 320, "mix": 96}, open_s=20),
    tiny=Amount({"reviews": 12000, "mix": 3000}, open_s=0),
    offline_texts=64,
    own_engine_texts=512,
    front_end_requests=30000,
    engine_process_requests=100000,
    idle_requests=300,
    overload_s=20,
    fairness_s=40,
)


def main() -> None:
    """Run what was asked for, and write the results after every part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--form",
        choices=("smoke", "short", "full"),
        default="short",
        help="smoke: does everything run? short: a quarter of an hour; full: for claims, hours",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="measure everything so often, not as the form says")
    parser.add_argument("--parts", type=lambda text: text.split(","), metavar="NAME,...", help="default: all")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report again")
    parser.add_argument(
        "--server-python", type=Path, default=ROOT / ".venv-export/bin/python", help="the project's environment"
    )
    parser.add_argument(
        "--infinity-python",
        type=Path,
        default=ROOT / ".venv-bench-infinity/bin/python",
        help="an environment with requirements-infinity.txt",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / "cache", help="folder for the models")
    options = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # servers that run are ended on the way out
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not options.report:
        # The environments' interpreters are links: resolved, they would be the one they were made from.
        place = Workplace(options.server_python.absolute(), options.infinity_python.absolute(), options.cache)
        form = {form.name: form for form in (SMOKE, SHORT, FULL)}[options.form]
        parts = _parts(place, replace(form, rounds=options.rounds or form.rounds))
        unknown = set(options.parts or ()) - set(parts)
        if unknown:
            parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
        _measure(place, parts, options.parts or list(parts), results, path)
    (options.results / "results.md").write_text(render(results))
    write_plots(results, options.results)
    say(f"written: {options.results}")


def _parts(place: Workplace, form: Form) -> Mapping[str, Callable[[], Any]]:
    layouts = [Layout(batch, 1, place.cores) for batch in form.batches]
    if place.cores > 1:
        layouts += [Layout(batch, place.cores, 1) for batch in form.batches_split]

    def serving(model: str, amount: Amount) -> Any:  # noqa: ANN401
        return compare(place, model, serving_systems(place, model, layouts), amount, rounds=form.rounds)

    return {
        "offline": lambda: [offline(place, "base", rounds=form.rounds, count=form.offline_texts)],
        "base": lambda: serving("base", form.base),
        "tiny": lambda: serving("tiny", form.tiny),
        "side-by-side": lambda: [
            row
            for model, amount in (("base", form.base), ("tiny", form.tiny))
            for row in side_by_side(
                place, model, count=amount.requests["reviews"] // 2, rounds=2 * max(form.rounds, 2) + 1
            )
        ],
        "own-engine": lambda: own_engine(place, "base", count=form.own_engine_texts, rounds=max(2, form.rounds)),
        "front-end": lambda: front_end(place, count=form.front_end_requests, rounds=form.rounds),
        "engine-process": lambda: engine_process(place, count=form.engine_process_requests, rounds=form.rounds),
        "idle": lambda: [
            row
            for model in ("demo", "base")
            for row in idle(place, model, count=form.idle_requests, rounds=form.rounds)
        ],
        "overload": lambda: overload(
            place, "base", requests=128, duration_s=form.overload_s, settle_s=6, rounds=form.rounds
        ),
        "fairness": lambda: fairness(place, "base", rate_per_s=3, duration_s=form.fairness_s, rounds=form.rounds),
    }


def _measure(
    place: Workplace,
    parts: Mapping[str, Callable[[], Any]],
    chosen: list[str],
    results: dict[str, Any],
    path: Path,
) -> None:
    for name in chosen:
        machine = describe_machine(place.cores) | {"versions": versions(place)}
        started = dt.datetime.now(dt.UTC)
        try:
            rows = parts[name]()
        except (DidNotStart, Stalled) as error:
            say(f"{name} is left out: {error}")
            continue
        results[name] = {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((dt.datetime.now(dt.UTC) - started).total_seconds()),
            "machine": machine | {"load_average_after": [round(value, 2) for value in os.getloadavg()]},
            "rows": rows,
        }
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
