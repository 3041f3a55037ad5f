"""The signals that stop a service. Only the process that was started handles them; it tells its children itself."""

import asyncio
import logging
import signal
from collections.abc import Callable

log = logging.getLogger(__name__)


def stop_on_signals(stop: Callable[[str], None], stop_now: Callable[[int], None]) -> None:
    """Handle on this event loop the signals that stop a service.

    SIGTERM, SIGINT and SIGHUP, which a terminal sends when it is closed, finish what was accepted. SIGTERM a second time, and
    SIGINT once one of them has come, do not wait for that. SIGHUP often comes along with another one, so it never hastens.

    Args:
        stop: Called with the name of a signal that finishes what was accepted.
        stop_now: Called with the number of a signal that does not wait for that.
    """
    loop = asyncio.get_running_loop()
    came: set[int] = set()

    def on_signal(number: int) -> None:
        name = signal.Signals(number).name
        if number in came & {signal.SIGTERM} or (came and number == signal.SIGINT):
            log.warning("%s again: stopping without what was accepted", name)
            stop_now(number)
            return
        # Counts from the next iteration on: timeout(1) sends a signal to its child and then to the group, which is one stop.
        loop.call_soon(came.add, number)
        stop(name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # nohup has a process ignore SIGHUP.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
