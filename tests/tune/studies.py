"""A small study, as an object and on disk, for the tests of the search."""

import json
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from gs_modules.train.tune.config import load

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = """
base:
  model: {hidden: [8], num_latents: 2, num_classes: 3}
  training: {steps: 60, batch_size: 50, evaluate_every: 20, checkpoint_every: 20}
study: {name: small, trials: 4, workers: 2}
search:
  temperature.kind: [constant, exponential]
  temperature.value: {low: 0.3, high: 2.0, log: true}
  temperature.rate: {low: 1e-3, high: 1e-1, log: true}
  optimizer.learning_rate: {low: 1e-3, high: 1e-1, log: true}
"""


def given(file, text, *flags):
    file.write_text(text)
    return load(file, flags, check_root=False)


def small_tuning(tmp_path, **changes):
    path = tmp_path / "s.yaml"
    path.write_text(SMALL)
    flags = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return load(path, flags, check_root=False)


def trials_of(folder, name="small"):
    storage = optuna.storages.JournalStorage(JournalFileBackend(f"{folder / 'journal.log'}"))
    return optuna.load_study(study_name=name, storage=storage).trials


def results_of(folder):
    return json.loads((folder / "study.json").read_text())
