"""The signals that stop a service. Only the process that was started handles them; it tells its children itself."""

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)


RELOAD: Final = signal.SIGUSR1
"""What a supervisor sends to its children, which are to read anew what has changed: they have SIGHUP blocked, which a terminal
sends to them, too. This one is blocked until they handle it."""
FINISH: Final = signal.SIGUSR2
"""What a supervisor sends to a child that is to finish what it accepted: children have SIGTERM blocked, which a service manager or
`timeout` sends to them, too. It ends a child that does not handle it yet, and has accepted nothing."""
ONE_STOP_S: Final = 0.5
"""A signal that comes again within this time is still the same stop. `timeout` sends its signal to its child and then to the group,
and what starts a service, as make does, passes on a signal that the service has got, too."""
TERMINAL: Final = Path("/dev/tty")


def stop_on_signals(
    stop: Callable[[str], None], stop_now: Callable[[int], None], rereads: Sequence[Callable[[], object]] | None = None
) -> None:
    """Handle on this event loop the signals that stop a service.

    SIGTERM, SIGINT and SIGHUP of a terminal that is closed finish what was accepted. Any other SIGHUP reads anew what has
    changed. `ONE_STOP_S` later, SIGTERM a second time, and SIGINT once one of them has come, do not wait for that. SIGHUP often
    comes along with another one, so it never hastens.

    Args:
        stop: Called with the name of a signal that finishes what was accepted.
        stop_now: Called with the number of a signal that does not wait for that.
        rereads: Each is called to read anew what may have changed. None if SIGHUP always stops.
    """
    loop = asyncio.get_running_loop()
    came: dict[int, float] = {}  # when each came first
    had_terminal = _has_terminal()

    def on_signal(number: int) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGHUP and rereads is not None and (not had_terminal or _has_terminal()):
            if not came:
                log.info("SIGHUP: reading anew what has changed")
                for reread in rereads:
                    reread()
            return
        first = min(came.values(), default=math.inf) if number == signal.SIGINT else came.get(number, math.inf)
        if number != signal.SIGHUP and time.monotonic() - first >= ONE_STOP_S:
            log.warning("%s again: stopping without what was accepted", name)
            stop_now(number)
        elif number not in came:
            came[number] = time.monotonic()
            stop(name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # nohup has a process ignore SIGHUP.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)


def reread_when_told(rereads: Sequence[Callable[[], object]]) -> None:
    """Have a child of a supervisor call each of these on this event loop when it is to read anew what may have changed."""

    def on_signal() -> None:
        for reread in rereads:
            reread()

    asyncio.get_running_loop().add_signal_handler(RELOAD, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (RELOAD,))


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal; one that is closed is none any more."""
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
