"""Checkpoints of a run: a folder for each step, written whole, read only where it is as written.

What orbax lacks for this: it restores a flipped byte without a word, and never falls back to an
older step. So each step carries the checksums of its files, and the config that it belongs to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from gs_modules.train.config import Config, differences, to_yaml
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.folder import check_same
from gs_modules.train.processes import agreed, is_first, meet
from gs_modules.train.run_directory import NEW_RUN

Tree = TypeVar("Tree")

SUMS = "SHA256SUMS"
"""In each step; ``sha256sum --check`` reads it too."""

KEPT = 2


class Checkpoints:
    """The newest steps of a run under one folder.

    A step is whole or not there: it is written as ``STEP.part`` and then renamed. That is enough
    for a process that is killed; after a loss of power its checksums say what is missing.
    """

    def __init__(self, folder: Path, config: Config):
        self.folder = folder.absolute()
        self._config = config

    def save(self, step: int, tree: object) -> None:
        """Writes ``tree`` as ``step``, and removes the oldest step beyond the two to keep.

        Raises:
            OSError: the folder and why it cannot be written; older steps are as they were.
        """
        part = self.folder / f"{step}.part"
        with self._naming_the_step(step):
            if is_first():
                self.folder.mkdir(exist_ok=True)
                for begun in self.folder.glob("*.part"):
                    shutil.rmtree(begun)
                self._ask_for_room(tree)
            meet("checkpoint begun")
            _orbax().save(part / "state", args=ocp.args.StandardSave(tree))
            if is_first():
                (part / "config.yaml").write_text(to_yaml(self._config))
                (part / SUMS).write_text(_sums(part))
                os.rename(part, self.folder / f"{step}")
                for old in self.steps()[:-KEPT]:
                    self._remove(old)
            meet("checkpoint ended")

    def restore(self, like: Tree) -> tuple[Tree, dict[int, str]]:
        """The newest step that is as it was written, in the structure of ``like``.

        Args:
            like: arrays of the shapes, dtypes and shardings to restore; returned where there is no
                step at all.

        Returns:
            The tree, and of each newer step, which is damaged, what is wrong with it.

        Raises:
            ConfigError: every step is damaged, or the step belongs to another config.
        """
        newest, faults = self._newest() if is_first() else (0, {})
        step = agreed(newest)
        if step < 0:
            return like, faults
        folder = self.folder / f"{step}"
        try:
            return self._read(folder, like), faults
        except Exception:
            if folder.exists():
                raise
            return self.restore(like)  # the run that goes on beside us has removed it meanwhile

    def _read(self, folder: Path, like: Tree) -> Tree:
        check_same(
            differences(load(folder / "config.yaml", check_root=False), self._config),
            folder,
            "a checkpoint",
            remedy=NEW_RUN,
            file=folder / "config.yaml",
        )
        restored: Any = _orbax().restore(folder / "state", args=ocp.args.StandardRestore(like))
        return restored

    def set_aside(self, step: int) -> None:
        """Renames a damaged step: it is in the way of the one that is written again."""
        aside = self.folder / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(self.folder / f"{step}", aside)

    def steps(self) -> list[int]:
        """The steps that are there, whole or damaged, the oldest first."""
        names = [path.name for path in self.folder.glob("*") if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal() and name == f"{int(name)}")

    def _newest(self) -> tuple[int, dict[int, str]]:
        """The newest good step, -1 where there is none, and what is wrong with those after it."""
        faults = {}
        for step in reversed(self.steps()):
            folder = self.folder / f"{step}"
            if (fault := _fault(folder)) is None:
                return step, faults
            faults[step] = f"{folder}: {fault}"
        if faults:
            none = f"{self.folder}: no step can be continued from; --restart begins anew"
            raise ConfigError([*faults.values(), none])
        return -1, faults

    def _remove(self, step: int) -> None:
        part = self.folder / f"{step}.part"  # a step that is half removed must not look like one
        os.rename(self.folder / f"{step}", part)
        shutil.rmtree(part)

    def _ask_for_room(self, tree: object) -> None:
        # On a full disk this fails once; within orbax a dozen threads fail, and say so after it.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + 2**17  # with its description
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(bytes(size))

    @contextlib.contextmanager
    def _naming_the_step(self, step: int) -> Iterator[None]:
        logger = logging.getLogger("absl")  # orbax logs the traceback of what it raises, too
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        except (OSError, ValueError) as error:
            # Tensorstore's are ValueErrors whose text has the number of the system's error.
            number = re.search(r"os_error_code='(\d+)'", f"{error}")
            reason = os.strerror(int(number[1])) if number else getattr(error, "strerror", None)
            if reason is None:
                raise
            reason = f"step {step} cannot be saved: {reason}"
            raise OSError(errno.EIO, reason, f"{self.folder}") from error
        finally:
            logger.setLevel(level)


def _orbax() -> ocp.Checkpointer:
    # Not in the background: that fails in other threads, which print their own tracebacks, and is
    # missed only when the next step is saved.
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _sums(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(folder: Path) -> str | None:
    """What of a step is not as it was written; None if nothing."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
        promised = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {f"{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
        if missing := sorted(promised.keys() - found):
            return f"{missing[0]} is missing"
        if unknown := sorted(found - promised.keys() - {SUMS}):
            return f"{unknown[0]} is not in {SUMS}"
        altered = (name for name, digest in promised.items() if _sha256(folder / name) != digest)
        name = next(altered, None)
        return None if name is None else f"{name} is not as it was written"
    except (OSError, UnicodeError) as error:
        return f"{SUMS} cannot be read: {getattr(error, 'strerror', None) or error}"
