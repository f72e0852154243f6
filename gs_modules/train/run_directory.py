"""The folder of a run: what is in it, and how it is opened, continued and finished."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gs_modules.train.config import Config, differences, to_yaml
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.folder import (
    check_holds,
    check_same,
    locked,
    make_folder,
    naming,
    read_object,
    refusing,
    write_whole,
)

_FLAG = "--run-dir"

NEW_RUN = f"{_FLAG} with another folder, or --restart to begin anew"
"""What to write where a run cannot be continued."""

_OF_EVERY_RECORD = {
    "step": int,
    "split": str,
    "neg_elbo": int | float,
    "reconstruction": int | float,
    "kl": int | float,
    "temperature": int | float,
    "perplexity": int | float,
    "codes_used": int,
    "steps_per_second": int | float,
}

_OF_EVERY_EVALUATION = {
    "split",
    "samples",
    "neg_importance_weighted",
    "neg_elbo",
    "reconstruction",
    "kl",
    "perplexity",
    "codes_used",
    "parameters_sha256",
}


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Names of the files of one run, and what is done with them.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def is_finished(self) -> bool:
        return self.summary.exists()

    @contextlib.contextmanager
    def opened(self, config: Config, *, restart: bool = False) -> Iterator[None]:
        """Makes the folder for ``config``, or checks that it holds a run of ``config``.

        Within this, no other process trains here.

        Args:
            config: the resolved config.
            restart: begin anew; a run that is there is kept aside as ``NAME.1``, ``NAME.2``, ...

        Raises:
            ConfigError: the folder cannot be made or moved aside, or another process trains here,
                or it holds a run of another config, or files that are no run or only a part of one.
        """
        make_folder(self.path, _FLAG)
        self._check_is_run()
        with contextlib.ExitStack() as stack:
            if not self.is_finished or restart:  # it may lie where nothing can be written
                stack.enter_context(locked(self.path, _FLAG, "trains"))
            if restart and self.config.exists():
                self._move_aside()
                stack.enter_context(locked(self.path, _FLAG, "trains"))
            self._check_is_run()
            if self.config.exists():
                self._check_is_of(config)
            else:
                write_whole(self.config, to_yaml(config).encode())
            yield

    def _check_is_run(self) -> None:
        check_holds(self.path, _FLAG, "a run", self.config.name)

    def _check_is_of(self, config: Config) -> None:
        for folder in (self.checkpoints, self.figures, self.events):
            if os.path.lexists(folder) and not folder.is_dir():
                raise ConfigError([f"{folder}: not a folder; remove it, or write {NEW_RUN}"])
        check_same(
            differences(load(self.config, check_root=False), config),
            self.path,
            "holds a run",
            remedy=NEW_RUN,
            file=self.config,
        )

    def _move_aside(self) -> None:
        path = self.path.resolve()  # where a link leads to: the link itself stays
        if path in (Path.cwd(), *Path.cwd().parents):
            raise ConfigError(
                [
                    f"--run-dir: {self.path} holds the working folder, which --restart would move; "
                    "go elsewhere or choose another folder"
                ]
            )
        with refusing(f"--run-dir: {self.path} cannot be moved aside"):
            path.rename(_free_name(path))
            path.mkdir()

    def records(self) -> list[dict[str, Any]]:
        """The metrics written so far, without a last line that was cut by the end of a process.

        Raises:
            ConfigError: another line is none that a run writes.
        """
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if number == len(lines):
                    break
                raise self._unreadable(number, "not JSON") from None
            if not isinstance(record, dict) or not all(
                isinstance(record.get(key), kind) for key, kind in _OF_EVERY_RECORD.items()
            ):
                names = ", ".join(_OF_EVERY_RECORD)
                raise self._unreadable(number, f"expected an object with {names}")
            records.append(record)
        return records

    def forget_after(self, step: int, measured: Sequence[tuple[int, str]]) -> None:
        """Drops metrics of steps after ``step``, which are about to be measured again.

        Args:
            step: from which the run continues.
            measured: the (step, split) of every record up to there.

        Raises:
            ConfigError: the metrics cannot be read, or are not those.
        """
        kept = [r for r in self.records() if r["step"] <= step and r["split"] != "test"]
        found = [(record["step"], record["split"]) for record in kept]
        for line, expected in enumerate(measured, start=1):
            if line > len(found):
                reason = f"ends before step {expected[0]}, and the checkpoint is of step {step}"
                raise self._unreadable(line, reason)
            if found[line - 1] != expected:
                reason = "expected split {1} of step {0}".format(*expected)
                raise self._unreadable(
                    line, f"{reason}, got {found[line - 1][1]} of {found[line - 1][0]}"
                )
        if len(found) > len(measured):
            raise self._unreadable(len(measured) + 1, "a record too many")
        write_whole(self.metrics, "".join(json.dumps(r) + "\n" for r in kept).encode())

    def _unreadable(self, line: int, reason: str) -> ConfigError:
        return ConfigError([f"{self.metrics}:{line}: {reason}; --restart begins anew"])

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds lines to ``metrics.jsonl``."""
        with naming(self.metrics), self.metrics.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def evaluations(self) -> list[dict[str, Any]]:
        """What ``gs-modules evaluate`` found, one object for each split.

        Raises:
            ConfigError: the file is damaged.
        """
        found = list(read_object(self.evaluation).values()) if self.evaluation.exists() else []
        if not all(isinstance(one, dict) and one.keys() >= _OF_EVERY_EVALUATION for one in found):
            names = ", ".join(sorted(_OF_EVERY_EVALUATION))
            raise ConfigError([f"{self.evaluation}: damaged: expected {names}; remove it"])
        return found


def parameters_sha256(params: Any) -> str:
    """SHA-256 over the bytes of all parameters, in the order of their paths."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate
