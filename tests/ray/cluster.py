"""Run the service on a Ray cluster of this machine until stdin closes: the process that `support` starts.

python -m tests.ray.cluster PORT FOLDER OPTIONS

FOLDER takes what Ray writes. OPTIONS are those of the service, as JSON.
"""

import sys

import ray
from ray import serve

from deploy.ray.service import Options, build

OBJECT_STORE_BYTES = 80 * 1024 * 1024  # Ray takes no less than 75 MiB; requests do not go through it


def main(port: int, folder: str, options: str) -> None:
    ray.init(
        address="local",
        num_cpus=4,  # what is promised to replicas, whatever this machine has
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        _temp_dir=folder,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(Options.model_validate_json(options)), name="bert")
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
        sys.stdin.read()
        serve.delete("bert")  # the replicas answer what they have, while the proxy is still there
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
