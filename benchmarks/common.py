"""What the parts of the benchmark share."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer

from benchmarks.systems import System, our_system

if TYPE_CHECKING:  # it needs what exports models, which `gpu_check` has in another environment
    from benchmarks.workplace import Workplace

Row = dict[str, Any]
"""One measurement, as it goes into the JSON file of results."""

CONNECTIONS: Final = 32
"""Of a closed loop: enough for batches of 16 to form while others run."""
MAX_CONNECTIONS: Final = 1024
"""Of an open loop: callers that no server of the comparison can keep waiting."""
OFFERED: Final = (0.25, 0.5, 0.75, 0.95)
"""Loads of the latency curves, as shares of what this server reached in a closed loop."""


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def ours(place: "Workplace", model: str) -> list[System]:
    """Return this server: one process, front ends of their own, and each precision that its bundle has."""
    folder = place.bundle(model).parent
    systems = [
        our_system(place.server_python, folder, "fp32, 1 process", BERT_PRECISION="fp32"),
        our_system(place.server_python, folder, "fp32, 2 front ends", "--workers", "2", BERT_PRECISION="fp32"),
    ]
    if "cpu-int8" in place.cpu_variants():
        systems.append(our_system(place.server_python, folder, "int8, 1 process", BERT_PRECISION="int8"))
        systems.append(
            our_system(place.server_python, folder, "int8, 2 front ends", "--workers", "2", BERT_PRECISION="int8")
        )
    return systems


def ours_loaded(place: "Workplace", model: str) -> list[System]:
    """Return this server as `ours` does, and as one sets it for load: batches of one thread, as many as there are cores."""
    folder = place.bundle(model).parent
    split = [
        our_system(
            place.server_python,
            folder,
            f"{precision}, 1 process, {place.cores} x 1 threads",
            BERT_PRECISION=precision,
            BERT_THREADS="1",
        )
        for precision in [variant.removeprefix("cpu-") for variant in place.cpu_variants()]
    ]
    return [*ours(place, model), *(split if place.cores > 1 else [])]


def token_counts(place: "Workplace", model: str, texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text, special tokens included."""
    tokenizer = Tokenizer.from_file(str(place.checkpoint(model) / "tokenizer.json"))
    return [len(encoded.ids) for encoded in tokenizer.encode_batch(texts)]
