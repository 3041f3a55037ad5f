"""No core dump of a process that crashes: it would hold the texts that were just being answered."""

import logging
import resource
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_NO_CORE: Final = 1
"""Bytes: less than any core. Of all limits this one alone also keeps Linux from handing a core to a program, such as apport or
systemd-coredump; 0 only prevents files."""
_PATTERN: Final = Path("/proc/sys/kernel/core_pattern")


def leave_no_core() -> None:
    """Have this process, and those that it starts, leave no core. The hard limit stays as it is: `prlimit` can ask for a core."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    is_limited = True
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, most or _NO_CORE))
    except (OSError, ValueError):  # nobody but root can raise a hard limit of 0
        is_limited = False
    pattern = _core_pattern()
    if pattern.startswith("@"):
        log.warning(
            "core_pattern of this host is a socket, which gets cores at any limit, with the texts in them: "
            "have the program behind it refuse those of this service"
        )
    elif pattern.startswith("|") and not is_limited:
        log.warning(
            "core_pattern of this host is a program, which gets cores at a hard limit of 0, with the texts in them: "
            "set the hard limit of core files to 1"
        )


def _core_pattern() -> str:
    try:
        return _PATTERN.read_text()
    except OSError:
        return ""
