"""The APIs of other servers, each in a module that translates it to and from the native one.

A dialect is added by a module with an `API`, a class; nothing lists it. None has a path of its own to the model.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from app.errors import StartupError
from app.http.api import Api


def _dialects() -> dict[str, type[Api]]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {module.API.name: module.API for module in modules if hasattr(module, "API")}


DIALECTS: Final = _dialects()


def chosen(names: str) -> list[type[Api]]:
    """Return the dialects that `--apis` turns on: `all`, `none`, or names with commas between.

    Raises:
        StartupError: there is no dialect of a name.
    """
    if names == "all":
        return list(DIALECTS.values())
    wanted = [] if names == "none" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in DIALECTS]:
        raise StartupError(
            f"BERT_APIS: there is no API {unknown[0]}. Choose all, none, or some of: {', '.join(DIALECTS)}."
        )
    return [DIALECTS[name] for name in wanted]
