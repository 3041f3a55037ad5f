"""One part of the check in a process of its own: a GPU that one part has broken is whole again for the next.

    python -m benchmarks.gpu_check.part NAME --device D --form F --cache FOLDER --export-python P --output FILE

Writes a line of JSON for every row as soon as there is one, then how the part ended.
"""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.common import Row
from benchmarks.gpu_check.bench import Bench, NotRun
from benchmarks.gpu_check.bundles import Bundles
from benchmarks.gpu_check.cuda_graphs import cuda_graphs
from benchmarks.gpu_check.forms import FORMS
from benchmarks.gpu_check.memory import memory
from benchmarks.gpu_check.offline import offline
from benchmarks.gpu_check.out_of_memory import out_of_memory
from benchmarks.gpu_check.parity import parity
from benchmarks.gpu_check.serving import served

PARTS: Final[Mapping[str, Callable[[Bench], Iterator[Row]]]] = MappingProxyType(
    {
        "parity": parity,
        "offline": offline,
        "serving": served,
        "memory": memory,
        "out-of-memory": out_of_memory,
        "cuda-graphs": cuda_graphs,
    }
)


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=tuple(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--form", choices=tuple(FORMS), required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--export-python", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    # A server that runs is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bench = Bench(options.device, FORMS[options.form], Bundles(options.export_python, options.cache, options.device))
    with options.output.open("w") as output:

        def write(line: Row) -> None:
            output.write(json.dumps(line) + "\n")
            output.flush()

        try:
            for row in PARTS[options.name](bench):
                write({"row": row})
        except NotRun as reason:
            write({"not_run": str(reason)})
        except Exception as error:
            traceback.print_exc()
            write({"failed": f"{type(error).__name__}: {error}"[:500]})
        else:
            write({"done": True})


if __name__ == "__main__":
    main()
