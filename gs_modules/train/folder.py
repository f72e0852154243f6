"""A folder that a command writes to: made, owned by one process, and its files written whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gs_modules.train.config_file import ConfigError

_LOCK = ".lock"


def make_folder(path: Path, flag: str) -> None:
    """Makes the folder that a flag names; a ``ConfigError`` where the system refuses it."""
    with refusing(f"{flag}: {path} cannot be made a folder"):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def locked(path: Path, flag: str, activity: str, hint: str = "") -> Iterator[None]:
    """Within this, no other process works in the folder.

    The system unlocks what a killed process had locked.

    Args:
        path: the folder.
        flag: that names it, for the message.
        activity: what the other process does there, such as "trains".
        hint: what else to say to a person who wants to work in the same folder.

    Raises:
        ConfigError: the folder cannot be written, or another process works there.
    """
    with contextlib.ExitStack() as stack:
        with refusing(f"{flag}: {path} cannot be written"):
            try:  # within: a Timeout is an OSError
                stack.enter_context(FileLock(path / _LOCK, timeout=0))
            except Timeout:
                reason = f"another process {activity} here; wait for it, or write {flag} with"
                raise ConfigError([f"{path}: {reason} another folder{hint}"]) from None
        yield


def check_holds(
    path: Path, flag: str, what: str, first: str, before_it: Collection[str] = ()
) -> None:
    """Refuses a folder that is neither empty nor what it should be.

    Args:
        path: the folder.
        flag: that names it, for the message.
        what: it should be, such as "a run".
        first: the file that makes it one.
        before_it: files that a process leaves if it is killed before it wrote that one.

    Raises:
        ConfigError: it holds other files, and ``first`` is not among them.
    """
    names = {path.name for path in path.iterdir() if path.suffix != ".part"}
    if first not in names and names - {_LOCK, *before_it}:
        raise ConfigError([f"{path}: not empty and not {what}; choose another {flag}"])


def check_same(
    different: Sequence[str], place: Path | str, holds: str, *, remedy: str, file: Path | str
) -> None:
    """Refuses to continue what another config began.

    Args:
        different: the keys that differ, with their values.
        place: what was to be continued.
        holds: what it is, such as "holds a run".
        remedy: what to write instead.
        file: where the other config is.

    Raises:
        ConfigError: some keys differ.
    """
    if different:
        refusal = f"{place}: {holds} of another config; write {remedy}"
        raise ConfigError([refusal, *(f"{file}: {difference}" for difference in different)])


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run; a ``ConfigError`` if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, IsADirectoryError):
        content = None
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: damaged: not a JSON object; remove it"])
    return content


def write_json(path: Path, document: Any) -> None:
    """Writes ``document`` as JSON that people can read, whole or not at all."""
    write_whole(path, f"{json.dumps(document, indent=2)}\n".encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes ``content`` so that no reader and no crash ever sees a part of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")  # evaluate may write it too
    with naming(path):
        temporary.write_bytes(content)
        os.replace(temporary, path)


@contextlib.contextmanager
def refusing(fault: str) -> Iterator[None]:
    """A folder that the system refuses is a wrong command line: ``fault``, and its reason."""
    try:
        yield
    except OSError as error:
        raise ConfigError([f"{fault}: {error.strerror}; choose another one"]) from error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in the error of a full disk, which names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{path}") from error
