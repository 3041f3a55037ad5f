"""`python -m app`: serve the bundles of a folder."""

import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings.exceptions import SettingsError

from app.processes.launch import launch
from app.settings import Settings, unknown_variables


def main() -> int:
    """Read the settings and serve until a signal; return the exit status."""
    # A misspelt limit or key would leave a service open that its operator believes to be closed.
    misspelt = {name: meant for name, meant in unknown_variables(os.environ).items() if meant}
    for name, meant in misspelt.items():
        print(  # noqa: T201
            f"{name}: there is no such setting. Did you mean {meant}? Rename it, or unset it if it is another program's.",
            file=sys.stderr,
        )
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
    return 2 if misspelt else launch(settings)


if __name__ == "__main__":
    # Not sys.exit: it would wait for the engine's thread, which may be loading a model or be stuck in a lost device.
    os._exit(main())
