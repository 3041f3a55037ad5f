"""Time a model's bare session run on one short text: what the service adds is measured against it. Prints seconds as JSON.

Runs in the project's environment.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.bundle.cpus import usable_cpus
from app.bundle.files import load_bundle
from app.bundle.sequences import TokenSequence
from app.engine.tuning import open_with_few_threads
from app.runtime.choice import open_runner
from app.runtime.runner import OrtRunner


def main(folder: str, text: str, count: int) -> None:
    """Run `count` times, one after the other, and print how long each took."""
    bundle = load_bundle(Path(folder))

    def with_threads(threads: int) -> OrtRunner:
        return open_runner(bundle, device="cpu", precision="fp32", threads=threads)

    runner = open_with_few_threads(bundle, with_threads, cpus=usable_cpus())  # as the server does
    encoded = Tokenizer.from_file(str(Path(folder) / "tokenizer.json")).encode(text)
    batch = [TokenSequence(np.array(encoded.ids), np.array(encoded.type_ids), np.empty(0, np.int64))]
    durations = []
    for _ in range(count):
        started_at = time.perf_counter()
        runner.run(batch)
        durations.append(time.perf_counter() - started_at)
    print(json.dumps(durations[count // 10 :]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
