"""Where a study is kept: a journal in its folder, or a database that machines share."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, SQLAlchemyError

from gs_modules.train.failure import CommandError

HEARTBEAT = 10
"""Seconds from one sign of life of a running trial to the next, in a database."""

GRACE = 60
"""Seconds without one after which another machine's trial counts as dead."""

RETRIES = 2
"""How often the values of a trial whose worker died are run again."""


class StorageError(CommandError):
    """The storage cannot be opened, read or written."""


def open_journal(path: Path) -> JournalStorage:
    """The journal of a folder that this process alone uses, whatever ended the one before it.

    Raises:
        StorageError: a line of it is none that Optuna wrote.
    """
    # Optuna would wait half a minute for the lock of a killed process.
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # Optuna appends to a line that was cut and cannot read it then
            os.truncate(path, whole)
    try:
        return JournalStorage(JournalFileBackend(f"{path}"))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{path}: damaged: {error}; restore it, or choose another --study-dir"
        raise StorageError(reason) from error


def open_database(url: str) -> RDBStorage:
    """The database of an URL, with its tables.

    Raises:
        StorageError: there is none, or no driver for it.
    """
    try:
        for _ in range(3):
            # Machines that begin at once both make the tables, and one of them fails.
            with contextlib.suppress(DatabaseError, StorageInternalError):
                return _database(url)
            time.sleep(0.5)
        return _database(url)
    except (ArgumentError, DatabaseError, ImportError, StorageInternalError) as error:
        raise StorageError(_first_line(error)) from error


def _database(url: str) -> RDBStorage:
    # SQLite gives up after five seconds while another process writes; a server may restart.
    is_file = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if is_file else {"pool_pre_ping": True}
    with quiet():
        return RDBStorage(
            url,
            options,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=retry(),
        )


def retry() -> RetryHeartbeatStaleTrialCallback:
    """What runs the values of a lost trial again."""
    with quiet():
        return RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna warns of what is experimental, and of heartbeats beside `Study.optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Names the storage in the errors of what is done with it."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(f"{place}: {_first_line(_reason(error))}") from error
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, error.filename or place) from error


def _reason(error: BaseException) -> BaseException:
    """What the database said first: the last error often says only that a session is spoilt.

    Before the first may lie errors that SQLAlchemy handled, such as the miss of a cache.
    """
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(earlier)
    said = [one.orig for one in chain if isinstance(one, DBAPIError) and one.orig]
    return said[-1] if said else chain[-1]


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError | ImportError) else None
    return f"{cause or error}".splitlines()[0]
