"""Where keys come from: a setting, a file with one key, a file with the names of many callers. Files may change."""

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from app.engine.callers import Caller
from app.errors import StartupError, Unauthorized
from app.http.keys import Keys, digest_of, parse_keys
from app.processes.reread.changes import Changes
from app.settings import Settings, variable_of

OF_THE_KEY: Final = "default"
"""The name of those who show the single key, where others have names."""
MOST_BYTES: Final = 16 * 2**20
"""Of a file: over a hundred thousand keys, which are read within about a second."""

Digests = Mapping[bytes, Caller | None]


def open_callers_keys(settings: Settings) -> "KeyFiles | None":
    """Return the keys of callers: of nobody in particular without a file of several; None if callers need none.

    Raises:
        StartupError: a file cannot be read, or a line of it is wrong.
    """
    if settings.api_keys_file is None and settings.api_key is None and settings.api_key_file is None:
        return None
    return KeyFiles(lambda: _of_callers(settings), settings.api_keys_file, settings.api_key_file)


def open_admin_key(settings: Settings) -> "KeyFiles | None":
    """Return the key of operators; None if there is none.

    Raises:
        StartupError: its file cannot be read.
    """
    if settings.admin_key is None and settings.admin_key_file is None:
        return None
    return KeyFiles(
        lambda: _single("admin_key", settings.admin_key, settings.admin_key_file, None),
        settings.admin_key_file,
        refusal="The admin key is missing or wrong. Send it as 'Authorization: Bearer KEY'.",
    )


class KeyFiles:
    """Keys that are read anew when one of their files changes."""

    def __init__(self, read: Callable[[], Digests], *paths: Path | None, refusal: str = Unauthorized.default) -> None:
        """Read them.

        Args:
            read: Returns whose keys there are, by their digests. Raises StartupError if a file is wrong.
            paths: The files; None stands for one that is not used.
            refusal: What others are told.
        """
        self._read: Final = read
        self._changes: Final = Changes(*paths)
        self.keys: Final = Keys(read(), refusal)

    @property
    def names(self) -> list[str]:
        """Of the callers, each once, in the order of the file."""
        return list(dict.fromkeys(caller.name for caller in self.keys.callers.values() if caller is not None))

    def look(self) -> bool:
        """Read the files if one is another than it was, and return whether the keys are others now. Wrong ones change nothing."""
        callers = self._changes.read(self._read, "The keys that were read before stay in force.")
        if callers is None:
            return False
        self.keys.callers = callers
        return True


def _of_callers(settings: Settings) -> Digests:
    file = settings.api_keys_file
    if file is None:
        return _single("api_key", settings.api_key, settings.api_key_file, None)
    variable = variable_of("api_keys_file")
    text = _text_of(variable, file)
    try:
        callers = parse_keys(text)
    except StartupError as error:
        raise StartupError(f"{variable} is wrong: {file}, {error}") from None
    named = next((one for one in callers.values() if one.name == OF_THE_KEY), Caller(OF_THE_KEY))
    return {**_single("api_key", settings.api_key, settings.api_key_file, named), **callers}


def _single(setting: str, key: SecretStr | None, file: Path | None, caller: Caller | None) -> Digests:
    """Return whose the key of a setting is, or that of its file, which counts if there are both; nobody's if there is neither."""
    if file is None:
        if key is None:
            return {}
        where, content = variable_of(setting), key.get_secret_value()
    else:
        variable = variable_of(f"{setting}_file")
        where, content = f"{variable} is wrong: {file}", _text_of(variable, file).strip()
        if not content:
            raise StartupError(f"{variable} is empty: {file}. Write the key into it.")
    try:
        return {digest_of(content): caller}
    except StartupError as error:
        raise StartupError(f"{where}: {error}") from None


def _text_of(variable: str, path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise StartupError(
                f"{variable} is not a regular file: {path}. It is read more than once, which a pipe cannot be."
            )
        if status.st_size > MOST_BYTES:
            raise StartupError(f"{variable} is over {MOST_BYTES} bytes: {path}. Name the right file.")
        return path.read_text(encoding="utf-8-sig")  # editors of Windows begin it with a mark
    except OSError as error:
        raise StartupError(f"{variable} cannot be read: {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{variable} is not UTF-8 text: {path}. Write it anew.") from error
