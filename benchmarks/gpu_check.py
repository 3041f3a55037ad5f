"""Check the CUDA path on one GPU: is it right, and how fast? In the server's environment; needs no network.

Writes `gpu-<device>.json` and `.md`, and prints the tables. With `--device cpu` the check itself is tried, on small models.
"""

import sys
from functools import partial
from typing import Final

from benchmarks.bundles import HEAD_SIZES, SMALL_MODELS
from benchmarks.harness import Command, Form, Part, run
from benchmarks.parts.cuda_graphs import cuda_graphs
from benchmarks.parts.memory import memory
from benchmarks.parts.offline import offline
from benchmarks.parts.out_of_memory import out_of_memory
from benchmarks.parts.parity import parity
from benchmarks.parts.serving import served

DEMO: Final = ("demo", "demo-masked", "demo-embed")
_RIGHT: Final = (*DEMO, "demo-next", *HEAD_SIZES, *SMALL_MODELS, "base", "large")
FULL: Final = Form(
    {
        "parity": Part(partial(parity, models=_RIGHT), _RIGHT),
        "offline": Part(partial(offline), ("base", "large")),
        "serving": Part(partial(served), ("base",)),
        "memory": Part(partial(memory), ("base",)),
        "out-of-memory": Part(partial(out_of_memory), ("base", "demo-masked")),
        "cuda-graphs": Part(partial(cuda_graphs), ("base",)),
    },
    part_within_s=900,
    rounds=3,
    devices=("cuda",),
)
_OFFLINE: Final = partial(
    offline, models=("tiny",), lengths=(32, 128), budgets=(128, 256), side=256, pass_s=0.02, hold_s=0.05
)
_SERVED: Final = partial(
    served, model="tiny", front_ends=(1, 2), batched_connections=4, closed_s=0.1, open_s=0.1, idle_requests=20
)
SMOKE: Final = Form(
    {
        "parity": Part(partial(parity, models=DEMO, texts=8), DEMO),
        "offline": Part(_OFFLINE, ("tiny",)),
        "serving": Part(_SERVED, ("tiny",)),
        "memory": Part(partial(memory, model="tiny", budget_tokens=512, batches=40, settled_after=10), ("tiny",)),
        "out-of-memory": Part(partial(out_of_memory, model="tiny"), ("tiny", "demo-masked")),
        "cuda-graphs": Part(partial(cuda_graphs, model="tiny", lengths=(16, 32), repeats=20), ("tiny",)),
    },
    part_within_s=300,
    rounds=3,
    devices=("cuda", "cpu"),
)
COMMAND: Final = Command("gpu", __doc__, {"full": FULL, "smoke": SMOKE})

if __name__ == "__main__":
    sys.exit(run(COMMAND))
