"""Configs for tests: those that are shipped, every kind there is, and what is refused of a text."""

from pathlib import Path

import pytest

from gs_modules import ESTIMATORS, SCHEDULES
from gs_modules.train.config_file import ConfigError, load

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = (CONFIGS / "digits.yaml").read_text()
KINDS = [("estimator", kind, of) for kind, of in ESTIMATORS.items()]
KINDS += [("temperature", kind, of) for kind, of in SCHEDULES.items()]
AT_ONE = [("temperature.kind", "constant")]
"""A temperature at which every estimator is defined."""

HAS = "a config has seed, framework, data, model, estimator, temperature, optimizer, training, mesh"
FALLS = (
    "Exponential falls: start must be at least end, got start=0.3 and end=0.4; "
    "for a rising temperature use Linear or Cosine"
)


def given(file, text, *flags):
    file.write_text(text, encoding="utf-8")
    return load(file, flags)


def refusals(file, text, *flags):
    with pytest.raises(ConfigError) as refused:
        given(file, text, *flags)
    assert str(refused.value) == "\n".join(refused.value.lines)
    return refused.value.lines
