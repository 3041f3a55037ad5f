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
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, most or _NO_CORE))
    except (OSError, ValueError):  # nobody but root can raise a hard limit of 0
        if _goes_to_a_program():
            log.warning(
                "a crash would hand texts to the program that takes core dumps, which a limit of 0 does not prevent: "
                "set the hard limit of core files to 1"
            )


def _goes_to_a_program() -> bool:
    try:
        return _PATTERN.read_text().startswith(("|", "@"))
    except OSError:
        return False
