"""TensorBoard's view of a run: the metrics as events, one folder for each split.

tensorboardX's writer of single events is used, not its `SummaryWriter`, whose thread writes some
time later: what was measured before a checkpoint would be lost with the process, and a full disk
would be an error of that thread.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.summary import scalar

from gs_modules.train.folder import naming

# Protobuf makes these classes while it is imported, unseen by a type checker.
_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")


class Events:
    """Scalars of the metrics by split, so that one chart shows a metric of all splits.

    Args:
        folder: of the events; made with the first.
        after: the step after which the run continues.
    """

    def __init__(self, folder: Path, *, after: int):
        self._folder = folder
        self._after = after
        self._writers: dict[str, EventsWriter] = {}

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes every number of the records, before it returns."""
        with naming(self._folder):
            for record in records:
                writer = self._writer(record["split"])
                for name, value in record.items():
                    if name not in ("step", "split"):
                        _write(writer, step=record["step"], summary=scalar(name, value))
                writer.flush()

    def _writer(self, split: str) -> EventsWriter:
        if split not in self._writers:
            folder = self._folder / split
            folder.mkdir(parents=True, exist_ok=True)
            # The step in its name: a process that was started in the same second wrote another
            # file, or one that begins where this one does.
            writer = EventsWriter(f"{folder / 'events'}", f".{self._after:010}")
            # TensorBoard drops what an earlier process wrote of this step and later ones. The test
            # images are measured once, at the end, and of the step whose parameters are kept.
            first = 0 if split == "test" else self._after + 1
            _write(writer, step=first, session_log=_pb2.SessionLog(status=_pb2.SessionLog.START))
            self._writers[split] = writer
        return self._writers[split]

    def close(self) -> None:
        with naming(self._folder):  # what a full disk kept back is tried once more
            for writer in self._writers.values():
                writer.close()


def _write(writer: EventsWriter, **content: Any) -> None:
    writer.write_event(_pb2.Event(wall_time=time.time(), **content))
