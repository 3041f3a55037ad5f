"""Read the JSON files of a checkpoint."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from model_export.checkpoint.readable import check_readable
from model_export.errors import ExportError

_MOST_BYTES: Final = 1 << 26
"""A config has a few kilobytes, one with a label for each of a million classes some megabytes."""


def read_json(path: Path, kind: type[Mapping[str, Any]] | type[Sequence[Any]] = dict) -> Any:  # noqa: ANN401  # JSON
    """Return the content of a file, an object or an array. All texts in it are Unicode.

    Raises:
        ExportError: it is missing, damaged, or of another kind.
    """
    check_readable(path, at_most_bytes=_MOST_BYTES)
    try:
        content = json.loads(path.read_bytes())
        json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise ExportError(f"{path} is missing. Download the complete checkpoint again.") from error
    except UnicodeEncodeError as error:
        raise ExportError(
            f"{path} has a text with half of a surrogate pair, which is no Unicode. Correct that text."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON. Download the checkpoint again.") from error
    if not isinstance(content, kind):
        raise ExportError(f"{path} does not have the expected content. Download the checkpoint again.")
    return content


def read_json_if_there(path: Path) -> Any:  # noqa: ANN401  # JSON
    """Return the content of a file, an object; an empty one if there is no file.

    Raises:
        ExportError: it is damaged, or no object.
    """
    return read_json(path) if os.path.lexists(path) else {}
