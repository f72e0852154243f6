"""The entry of the command `gs-modules`: a stop while JAX is imported is one line too.

Beside the package and not in it, since importing anything in the package imports JAX first.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> NoReturn:
    """Runs the command and ends the process with its exit code."""
    for number in SIGNALS:
        signal.signal(number, _stop)
    from gs_modules.train import cli

    os._exit(cli.main())  # an ordinary end waits for every thread that a library left behind


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    # No KeyboardInterrupt, which some imports swallow and others turn into an error of their own.
    os.write(2, b"interrupted before the command began\n")
    os._exit(128 + number)
