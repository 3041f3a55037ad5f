"""Read the JSON files of a checkpoint that no library reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_export.checkpoint.readable import check_readable
from model_export.errors import ExportError


def read_json(path: Path, kind: type[Mapping[str, Any]] | type[Sequence[Any]] = dict) -> Any:  # noqa: ANN401  # JSON
    """Return the content of a file, an object or an array.

    Raises:
        ExportError: it is missing, damaged, or of another kind.
    """
    check_readable(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{path} is missing. Download the complete checkpoint again.") from error
    except ValueError as error:
        raise ExportError(f"{path} is not JSON. Download the checkpoint again.") from error
    if not isinstance(content, kind):
        raise ExportError(f"{path} does not have the expected content. Download the checkpoint again.")
    return content


def read_json_if_there(path: Path) -> Any:  # noqa: ANN401  # JSON
    """Return the content of a file, an object; an empty one if there is no file.

    Raises:
        ExportError: it is damaged, or no object.
    """
    return read_json(path) if path.is_file() else {}
