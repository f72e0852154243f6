"""The processes that train trials, seen from the one that hands these out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from optuna.trial import Trial


@dataclasses.dataclass
class Worker:
    """A process that trains trials.

    Attributes:
        number: by which people know it, from 1.
        process: the process.
        connection: to it.
        trial: what it trains.
        finished: trials that it finished.
    """

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    trial: Trial | None = None
    finished: int = 0

    @classmethod
    def start(cls, number: int, of: int, folder: Path) -> Worker:
        """Starts worker ``number`` of ``of``, on its share of the CPUs."""
        ours, theirs = socket.socketpair()
        share = cpus()[number - 1 :: of] if of <= len(cpus()) else []
        code = f"from gs_modules.train.tune.worker import main; main({theirs.fileno()}, {share})"
        with theirs, (folder / f"worker-{number}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C of a terminal is for the first process
                # Several processes on one accelerator cannot each claim most of its memory.
                env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ},
            )
        return cls(number, process, Connection(ours.detach()))

    def stop(self) -> None:
        """Ends the process, which holds nothing that another would not make again."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def exit_in_words(self) -> str:
        """How the process ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)  # its connection ends a moment before it does
        self.stop()
        code = self.process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def cpus() -> list[int]:
    """Those that this process may use; only how many there are where they cannot be chosen."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
