"""Run a process, and end it with an exit status that says why it ended."""

import logging
import os
import signal
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any, NoReturn

import uvloop

from app.errors import EngineLost, StartupError
from app.processes.garbage_collection import collect_seldom, freeze_imports
from app.settings import Settings
from app.telemetry.log_writer import drain, write_in_background
from app.telemetry.logs import configure

log = logging.getLogger(__name__)


class ExitStatus(IntEnum):
    """Why a process ended."""

    STOPPED = 0
    CONFIGURATION = 1
    """The service cannot start as it is set up."""
    FAILED = 70
    """EX_SOFTWARE of sysexits.h: the device was lost, or a fault of this service. It should be started again."""
    INTERRUPTED = 128 + signal.SIGINT
    """SIGINT did not let it finish what it had accepted."""
    TERMINATED = 128 + signal.SIGTERM
    """SIGTERM did not, the second time that it came."""


ChildMain = Callable[..., Coroutine[Any, Any, ExitStatus]]
"""Main coroutine of a child process. It is called with the settings first."""


def run(main: Coroutine[Any, Any, ExitStatus]) -> ExitStatus:
    """Run the main coroutine of a process, log the error it ends with, and return the exit status."""
    try:
        return uvloop.run(main)
    except StartupError as error:
        log.critical("cannot start: %s", error)
        return ExitStatus.CONFIGURATION
    except EngineLost as error:
        log.critical("the device failed while the models were loading: %s", error.__cause__ or error)
    except MemoryError:
        log.critical("there is not enough memory: raise its limit, or serve fewer or smaller models")
    except Exception:  # Python would end with the status of a wrong configuration
        log.critical("a fault of this service", exc_info=True)
    finally:
        drain()
    return ExitStatus.FAILED


def run_child(main: ChildMain, settings: Settings, *arguments: object) -> NoReturn:
    """Be a child process: run its main coroutine and end."""
    collect_seldom()
    freeze_imports()
    write_in_background()
    configure(settings.log_level, settings.log_format)
    # As in `__main__`: a thread may be loading a model, or be stuck in a lost device.
    os._exit(run(main(settings, *arguments)))
