"""`python -m app`: serve the bundles of a folder."""

import os
import signal
import sys

if __name__ == "__main__":
    # Before what takes a second to import: process 1 of a container does not get a signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

import shutil
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, HelpFormatter
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_origin

try:
    from pydantic import HttpUrl, SecretStr, ValidationError

    from app.processes.launch import launch
    from app.settings import GROUPS, Settings, service_port, unknown_variables, variable_of
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] == "app":
        raise
    sys.exit(
        f"error: {sys.executable} has no package {missing.name}: run this with .venv-export/bin/python, which `make serve` "
        "installs, or install requirements/cpu.txt or gpu.txt."
    )

_WIDTH: Final = 100
_METAVARS: Final[dict[Any, str]] = {
    str: "ADDRESS",
    str | None: "PATH",
    int: "N",
    float: "SECONDS",
    Path: "PATH",
    SecretStr | None: "KEY",
    Path | None: "PATH",
    HttpUrl | None: "URL",
}
_LISTS: Final = {
    "default_models": "MODEL,TASK=MODEL,...",
    "apis": "NAME,...",
    "precision": "PRECISION,MODEL=PRECISION,...",
    "forwarded_allow_ips": "ADDRESS,...",
}
"""The settings that are lists, and how their items are written."""
SAGEMAKER: Final[dict[str, Any]] = {"models": Path("/opt/ml/model"), "port": 8080}
"""Where Amazon SageMaker puts models and sends requests. It starts a container with the word `serve`, without options; the
image's own environment does not count then."""


def main() -> int:
    """Read the settings and serve until a signal; return the exit status."""
    # A misspelt limit or key would leave a service open that its operator believes to be closed.
    misspelt = {name: meant for name, meant in unknown_variables(os.environ).items() if meant}
    for name, meant in misspelt.items():
        print(  # noqa: T201
            f"{name}: there is no such setting. Did you mean {meant}? Rename it, or unset it if it is another program's.",
            file=sys.stderr,
        )
    if variable := service_port(os.environ):
        print(  # noqa: T201
            f"{variable} is the address of a Kubernetes Service, and ignored. Set enableServiceLinks: false in the pod.",
            file=sys.stderr,
        )
        del os.environ[variable]
    try:
        is_sagemaker = sys.argv[1:2] == ["serve"]
        arguments = vars(make_parser().parse_args(sys.argv[2 if is_sagemaker else 1 :]))
        settings = Settings(**(SAGEMAKER | arguments if is_sagemaker else arguments))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = str(problem["loc"][0])
            print(f"{_flag(name)} ({variable_of(name)}): {problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    return 2 if misspelt else launch(settings)


def make_parser() -> ArgumentParser:
    """Return a parser of the flags that are given, as text; `Settings` checks them and adds the rest."""
    # No more columns than the terminal has, nor than can be read at a glance.
    width = min(shutil.get_terminal_size().columns, _WIDTH)
    parser = ArgumentParser(
        prog="python -m app",
        usage="python -m app [serve] [OPTIONS]",
        description="Serve BERT bundles over HTTP. Each option can also be set by the environment variable beside it. With "
        "`serve`, as Amazon SageMaker starts a container, models are in /opt/ml/model and the port is 8080, whatever the "
        "environment says.",
        formatter_class=partial(HelpFormatter, max_help_position=28, width=width),
        argument_default=SUPPRESS,
        allow_abbrev=False,
    )
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = Settings.model_fields[name]
            text = f"{field.description} [{variable_of(name)}{_default(field.default)}]"
            if field.annotation is bool:
                group.add_argument(_flag(name), action=BooleanOptionalAction, help=text)
            else:
                group.add_argument(_flag(name), metavar=_LISTS.get(name) or _metavar(field.annotation), help=text)
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(annotation: Any) -> str:  # noqa: ANN401 - a type
    if get_origin(annotation) is Literal:
        return f"{{{','.join(annotation.__args__)}}}"
    return _METAVARS[annotation]


def _default(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f", default: {'on' if value else 'off'}"
    return f", default: {value:g}" if isinstance(value, float) else f", default: {value}"


if __name__ == "__main__":
    # Not sys.exit: it would wait for the engine's thread, which may be loading a model or be stuck in a lost device.
    os._exit(main())
