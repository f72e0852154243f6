"""Checkpoints of a run: orbax writes them, the step names them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

Tree = TypeVar("Tree")


class Checkpoints:
    """The newest two steps of a run under one folder; a step is whole or not there at all."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def save(self, step: int, tree: object) -> None:
        """Writes ``tree`` as ``step``; nothing if that step is there already.

        Raises:
            OSError: the folder and why it cannot be written; older steps are as they were.
        """
        if step in self._manager.all_steps():
            return
        logger = logging.getLogger("absl")  # orbax logs the traceback of what it raises, too
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            self._ask_for_room(tree)
            self._manager.save(step, args=ocp.args.StandardSave(tree))
        except (OSError, ValueError) as error:
            # Tensorstore's are ValueErrors whose text has the number of the system's error.
            number = re.search(r"os_error_code='(\d+)'", f"{error}")
            reason = os.strerror(int(number[1])) if number else getattr(error, "strerror", None)
            if reason is None:
                raise
            reason = f"step {step} cannot be saved: {reason}"
            raise OSError(errno.EIO, reason, f"{self._manager.directory}") from error
        finally:
            logger.setLevel(level)

    def _ask_for_room(self, tree: object) -> None:
        # On a full disk this fails once; within orbax a dozen threads fail, and say so after it.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + 2**17  # with its description
        with tempfile.TemporaryFile(dir=self._manager.directory) as file:
            file.write(bytes(size))

    def restore(self, like: Tree) -> Tree:
        """The newest step in the structure of ``like``; ``like`` itself if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return like
        restored: Any = self._manager.restore(step, args=ocp.args.StandardRestore(like))
        return restored


@contextlib.contextmanager
def open_checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Checkpoints under ``folder``."""
    # A step saved in the background fails in other threads, which print their own tracebacks, and
    # is missed only when the next one is saved.
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield Checkpoints(manager)
