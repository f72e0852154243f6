"""Checkpoints of a run: orbax writes them, the step names them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

Tree = TypeVar("Tree")


class Checkpoints:
    """The newest two steps of a run under one folder; a step is whole or not there at all."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def save(self, step: int, tree: object) -> None:
        """Writes ``tree`` as ``step``; nothing if that step is there already."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, like: Tree) -> Tree:
        """The newest step in the structure of ``like``; ``like`` itself if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return like
        restored: Any = self._manager.restore(step, args=ocp.args.StandardRestore(like))
        return restored


@contextlib.contextmanager
def open_checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Checkpoints under ``folder``; leaving waits for what is being written."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield Checkpoints(manager)
