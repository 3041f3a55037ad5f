"""Run a bundle's golden cases on the GPU, alone and together, in a process of its own, and tell what the GPU was asked for.

python -m tests.cuda.replay FOLDER PRECISION CALLS
"""

import json
import os
import sys
from pathlib import Path

from app.bundle.files import load_bundle
from app.engine.golden import golden_sequences, replay_golden
from app.runtime.choice import open_runner

folder, precision, calls = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
bundle = load_bundle(folder)
runner = open_runner(bundle, device="cuda", precision=precision, threads=[1])  # type: ignore[arg-type]
replay_golden(bundle, runner.variant_name, runner.run)
os.environ["SIMULATED_CUDA_LOG"] = str(calls)
runner.run(golden_sequences(bundle))
sys.stdout.write(json.dumps({"nodes_on_cpu": list(runner.nodes_on_cpu)}))
