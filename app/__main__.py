"""`python -m app`: serve the bundles of a folder."""

import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings.exceptions import SettingsError

from app.launch import launch
from app.settings import Settings


def main() -> int:
    """Read the settings and serve until a signal; return the exit status."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "_".join(map(str, problem["loc"]))
            print(f"--{name.replace('_', '-')} (BERT_{name.upper()}): {problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    except SettingsError as error:
        print(f"settings: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return launch(settings)


if __name__ == "__main__":
    # Not sys.exit: it would wait for the engine's thread, which may be loading a model or be stuck in a lost device.
    os._exit(main())
