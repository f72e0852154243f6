"""The entry of the command `gs-modules`: a stop while JAX is imported is one line too.

Beside the package and not in it, since importing anything in the package imports JAX first.
"""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Runs the command and returns its exit code."""
    for number in SIGNALS:
        signal.signal(number, _stop)
    from gs_modules.train import cli

    code = cli.main()
    for number in SIGNALS:  # the outcome stands, whatever comes while the interpreter shuts down
        signal.signal(number, signal.SIG_IGN)
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    # No KeyboardInterrupt, which some imports swallow and others turn into an error of their own.
    os.write(2, b"interrupted before the command began\n")
    os._exit(128 + number)
