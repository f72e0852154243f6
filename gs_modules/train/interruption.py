"""Ctrl-C and SIGTERM, heard at once: by a thread, and without an exception.

Python runs a signal handler between two bytecodes of the main thread, which compiling keeps waiting
for seconds, and a `KeyboardInterrupt` within a callback of XLA's crashes the process or is lost. So
a thread hears of signals, and stopping now means `os._exit`: every file of a run is replaced as a
whole, but for the last line of the metrics, which the next start drops if it is cut.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from rich.console import Console

from gs_modules.train.console import say
from gs_modules.train.failure import CommandError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(CommandError):
    """A signal asked the command to stop, and the same command continues from what is saved."""

    def __init__(self, signal_number: int, where: str):
        super().__init__(f"stopped {where}")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def hearing(react: Callable[[int], None]) -> Iterator[None]:
    """Within this, `react(number)` is called for every signal, whatever the main thread does."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)  # the interpreter writes to it from within a signal

    def listen() -> None:
        while number := receiver.recv(1):
            react(number[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    outer = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: None)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(outer)
        sender.close()
        listener.join()
        receiver.close()


def stop_now(number: int) -> None:
    """Ends the process."""
    _end(number, b"interrupted\n")


def stop_run(number: int) -> None:
    """Ends the process, which holds nothing that the same command would not make again."""
    _end(number, b"interrupted; the same command continues from what was saved\n")


def _end(number: int, message: bytes) -> None:
    os.write(2, message)
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")  # shows the cursor, which rich's progress bar hides
    os._exit(128 + number)


@contextlib.contextmanager
def stop_requests(console: Console, answer: str) -> Iterator[Callable[[], int]]:
    """A first signal waits until the command asks for it, and a second one ends the process.

    Args:
        console: where people look.
        answer: what the first signal makes the command do, in words.

    Yields:
        A function that returns the number of the first signal, or 0 if none came so far. It may
        be called after leaving, too.
    """
    received: list[int] = []

    def remember(number: int) -> None:
        if received:
            stop_run(number)
        received.append(number)
        say(console, f"{answer}; once more stops now")

    with hearing(remember):
        yield lambda: received[0] if received else 0
