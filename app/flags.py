"""Settings as flags of a command line: how each is written, and what is told of those that cannot be."""

import os
import shutil
import sys
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, HelpFormatter, _ArgumentGroup
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_origin

from pydantic import HttpUrl, SecretStr, ValidationError

from app.settings import Settings, service_ports, unknown_variables, variable_of

_WIDTH: Final = 100
_METAVARS: Final[dict[Any, str]] = {
    str: "ADDRESS",
    str | None: "PATH",
    int: "N",
    int | None: "N",
    float: "SECONDS",
    Path: "PATH",
    SecretStr | None: "KEY",
    Path | None: "PATH",
    HttpUrl | None: "URL",
}
_LISTS: Final = {
    "host": "ADDRESS,...",
    "default_models": "MODEL,TASK=MODEL,...",
    "apis": "NAME,...",
    "precision": "PRECISION,MODEL=PRECISION,...",
    "forwarded_allow_ips": "ADDRESS,...",
    "ssl_ciphers": "CIPHER:...",
}
"""The settings that are lists, and how their items are written."""


def parser_for(prog: str, usage: str, description: str) -> ArgumentParser:
    """Return a parser of the flags that are given, as text; `read_settings` checks them and adds the rest."""
    # No more columns than the terminal has, nor than can be read at a glance.
    width = min(shutil.get_terminal_size().columns, _WIDTH)
    return ArgumentParser(
        prog=prog,
        usage=usage,
        description=description,
        formatter_class=partial(HelpFormatter, max_help_position=28, width=width),
        argument_default=SUPPRESS,
        allow_abbrev=False,
    )


def add_settings(group: _ArgumentGroup, names: Iterable[str]) -> None:
    """Add the flags of some settings, by name."""
    for name in names:
        field = Settings.model_fields[name]
        text = f"{field.description} [{variable_of(name)}{_default(field.default)}]"
        if field.annotation is bool:
            group.add_argument(_flag(name), action=BooleanOptionalAction, help=text)
        else:
            group.add_argument(_flag(name), metavar=_LISTS.get(name) or _metavar(field.annotation), help=text)


def read_settings(arguments: Mapping[str, Any]) -> Settings | None:
    """Return the settings of these flags and of the environment, or None if some cannot be, which stderr tells."""
    # A misspelt limit or key would leave a service open that its operator believes to be closed.
    misspelt = {name: meant for name, meant in unknown_variables(os.environ).items() if meant}
    for name, meant in misspelt.items():
        tell(
            f"{name}: there is no such setting. Did you mean {meant}? Rename it, or unset it if it is another program's."
        )
    for variable in service_ports(os.environ):
        tell(
            f"{variable} is the address of a Kubernetes Service, and ignored. Set enableServiceLinks: false in the pod."
        )
        del os.environ[variable]
    try:
        settings = Settings(**arguments)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = str(problem["loc"][0])
            tell(f"{_flag(name)} ({variable_of(name)}): {problem['msg']}")
        return None
    return None if misspelt else settings


def tell(line: str) -> None:
    """Write a line to stderr, before there is a log."""
    print(line, file=sys.stderr)  # noqa: T201


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
