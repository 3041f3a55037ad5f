"""`python -m app`: serve the bundles of a folder, or predict the rows of a file with one of them."""

import os
import signal
import sys

if __name__ == "__main__":
    # Before what takes a second to import: process 1 of a container does not get a signal that it has no handler for.
    # That a service ends is no failure, that a prediction does is one.
    TERMINATED = 128 + signal.SIGTERM if sys.argv[1:2] == ["predict"] else 0
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    # A stream that is closed fails when it is used; no file takes its number, for which uvloop would end the process.
    for name, mode, access in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, access), mode))
    # FastAPI imports what ends the process if a propagator, such as b3, is not installed. Traces take the W3C's context.
    os.environ.pop("OTEL_PROPAGATORS", None)

from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

try:
    from app.processes.garbage_collection import collect_seldom

    collect_seldom()  # before the other imports

    from app.flags import add_settings, parser_for, read_settings
    from app.settings import GROUPS
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] == "app":
        raise
    sys.exit(
        f"error: {sys.executable} has no package {missing.name}: run this with .venv-export/bin/python, which `make serve` "
        "installs, or install requirements/cpu.txt or gpu.txt."
    )

SAGEMAKER: Final[dict[str, Any]] = {"models": Path("/opt/ml/model"), "port": 8080}
"""Where Amazon SageMaker puts models and sends requests. It starts a container with the word `serve`, without options; the
image's own environment does not count then."""


def main() -> int:
    """Do what the command line says, and return the exit status.

    Each command imports what it needs: a prediction no server, and help neither.
    """
    command, *rest = sys.argv[1:] or [""]
    if command == "predict":
        from app.predict.command import predict  # noqa: PLC0415

        return predict(rest)
    is_sagemaker = command == "serve"
    arguments = vars(make_parser().parse_args(rest if is_sagemaker else sys.argv[1:]))
    settings = read_settings(SAGEMAKER | arguments if is_sagemaker else arguments)
    if settings is None:
        return 2
    from app.processes.launch import launch  # noqa: PLC0415

    return launch(settings)


def make_parser() -> ArgumentParser:
    """Return a parser of the flags that are given, as text."""
    parser = parser_for(
        "python -m app",
        "python -m app [serve] [OPTIONS]\n       python -m app predict --help",
        "Serve BERT bundles over HTTP. Each option can also be set by the environment variable beside it. With "
        "`serve`, as Amazon SageMaker starts a container, models are in /opt/ml/model and the port is 8080, whatever the "
        "environment says. `predict` writes what a model says of each row of a file, without a server.",
    )
    for title, names in GROUPS.items():
        add_settings(parser.add_argument_group(title), names)
    return parser


if __name__ == "__main__":
    # Not sys.exit: it would wait for the engine's thread, which may be loading a model or be stuck in a lost device.
    os._exit(main())
