"""Small runs on digits, as objects and as processes, for the tests of the command."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gs_modules.train import data
from gs_modules.train.config import Config
from gs_modules.train.config_file import load
from gs_modules.train.loop import Trainer

FRAMEWORKS = ("nnx", "linen", "haiku")
SMALL = {
    "model.hidden": "[16]",
    "model.num_latents": "3",
    "model.num_classes": "4",
    "model.prior": "learned",
    "temperature.kind": "cosine",
    "temperature.steps": "50",
    "training.steps": "50",
    "training.batch_size": "100",
    "training.evaluate_every": "20",
    "training.checkpoint_every": "20",
    "training.evaluation_samples": "2",
}
COMMAND = [sys.executable, "-c", "import sys, gs_modules_command as c; sys.exit(c.main())"]


def _options(changes: dict[str, Any]) -> dict[str, str]:
    return SMALL | {name.replace("__", "."): str(value) for name, value in changes.items()}


def flags(**changes: Any) -> list[str]:
    """Those of a small run; ``training__steps=20`` changes a key."""
    return [word for name, value in _options(changes).items() for word in (f"--{name}", value)]


def train_command(run: Path, **changes: Any) -> list[str]:
    """Of a process that trains a small run; its empty config lies beside its folder."""
    config = run.parent / "small.yaml"
    config.write_text("")
    return [*COMMAND, "train", str(config), "--run-dir", str(run), *flags(**changes)]


def long_command(run: Path) -> list[str]:
    """Of a run that is not over before something can be done to it."""
    return train_command(run, training__steps=1000, training__checkpoint_every=1000)


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def small_config(**changes: Any) -> Config:
    return load(None, list(_options(changes).items()))


def build_trainer(**changes: Any) -> Trainer:
    return Trainer.of(small_config(**changes), data.load("digits"))


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_speed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All that must be equal in a run that was stopped."""
    return [{k: v for k, v in record.items() if k != "steps_per_second"} for record in records]
