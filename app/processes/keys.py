"""Where the keys of callers come from: a setting, a file with one key, a file with the names of many, which may change."""

import logging
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from app.engine.callers import Caller
from app.errors import StartupError
from app.http.keys import Keys, digest_of, parse_keys
from app.processes.changes import Changes
from app.settings import Settings, variable_of

log = logging.getLogger(__name__)

OF_THE_KEY: Final = "default"
"""The name of those who show the single key, where others have names."""


def read_key(setting: str, key: SecretStr | None, file: Path | None) -> str | None:
    """Return the key of a setting, or that of its file, which counts if there are both; None if there is neither.

    Raises:
        StartupError: the file cannot be read, or is empty.
    """
    if file is None:
        return None if key is None else key.get_secret_value()
    variable = variable_of(f"{setting}_file")
    content = _text_of(variable, file).strip()
    if not content:
        raise StartupError(f"{variable} is empty: {file}. Write the key into it.")
    return content


def single_key(settings: Settings) -> Keys | None:
    """Return the one key that the settings ask for, which is nobody's in particular; None if there is none.

    Raises:
        StartupError: its file cannot be read.
    """
    key = read_key("api_key", settings.api_key, settings.api_key_file)
    return None if key is None else Keys({digest_of(key): None})


def open_keys_file(settings: Settings) -> "KeysFile | None":
    """Return the keys of callers that have names; None if there is no such file.

    Raises:
        StartupError: a file cannot be read, or a line of it is wrong.
    """
    if settings.api_keys_file is None:
        return None
    return KeysFile(settings.api_keys_file, read_key("api_key", settings.api_key, settings.api_key_file))


class KeysFile:
    """The keys of a file, read anew when it changes."""

    def __init__(self, path: Path, single_key: str | None = None) -> None:
        """Read it.

        Raises:
            StartupError: it cannot be read, or a line of it is wrong.
        """
        self._path: Final = path
        self._single_key: Final = single_key
        self._changes: Final = Changes(path)
        self.keys: Final = Keys(self._read())

    @property
    def names(self) -> list[str]:
        """Of the callers, each once, in the order of the file."""
        return list(dict.fromkeys(caller.name for caller in self.keys.callers.values() if caller is not None))

    def look(self) -> bool:
        """Read the file if it is another than it was, and return whether the keys are others now. Wrong ones change nothing."""
        if not self._changes.are_new():
            return False
        try:
            callers = self._read()
        except StartupError as error:
            log.error("%s The keys that were read before stay in force.", error)  # noqa: TRY400
            return False
        self.keys.callers = callers
        log.info("%s was read again: %d keys of %d callers", self._path, len(callers), len(self.names))
        return True

    def _read(self) -> dict[bytes, Caller]:
        variable = variable_of("api_keys_file")
        text = _text_of(variable, self._path)
        try:
            callers = parse_keys(text)
        except StartupError as error:
            raise StartupError(f"{variable} is wrong: {self._path}, {error}") from None
        if self._single_key is not None:
            named = next((one for one in callers.values() if one.name == OF_THE_KEY), Caller(OF_THE_KEY))
            callers.setdefault(digest_of(self._single_key), named)
        return callers


def _text_of(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{variable} cannot be read: {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{variable} is not UTF-8 text: {path}. Write it anew.") from error
