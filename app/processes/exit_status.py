"""The exit statuses of this service's processes, and how an error becomes one."""

import logging
import signal
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any

import uvloop

from app.errors import EngineLost, StartupError

log = logging.getLogger(__name__)


class ExitStatus(IntEnum):
    """Why a process ended."""

    STOPPED = 0
    CONFIGURATION = 1
    """The service cannot start as it is set up."""
    FAILED = 70
    """EX_SOFTWARE of sysexits.h: the device was lost, or a fault of this service. It should be started again."""
    OTHER_BUNDLES = 75
    """EX_TEMPFAIL: a front end met an engine with other bundles than it has read. Its successor reads them anew."""
    INTERRUPTED = 128 + signal.SIGINT


def run(main: Coroutine[Any, Any, ExitStatus]) -> ExitStatus:
    """Run the main coroutine of a process, log the error it ends with, and return the exit status."""
    try:
        return uvloop.run(main)
    except StartupError as error:
        log.critical("cannot start: %s", error)
        return ExitStatus.CONFIGURATION
    except EngineLost as error:
        log.critical("the device failed while the models were loading: %s", error.__cause__ or error)
    except Exception:  # Python would end with the status of a wrong configuration
        log.critical("a fault of this service", exc_info=True)
    return ExitStatus.FAILED
