"""What a config gives back: YAML that loads as an equal one, temperatures, differences, help."""

import dataclasses
import math
import re

import pytest

from configs import AT_ONE, CONFIGS, KINDS, given
from gs_modules import SCHEDULES
from gs_modules.train.config import Config, config_options, differences, print_config, to_yaml
from gs_modules.train.config_file import load

pytestmark = pytest.mark.command


@pytest.mark.parametrize(("section", "kind", "of"), KINDS)
def test_resolved_yaml_loads_as_an_equal_config(file, section, kind, of):
    flags = [(f"{section}.kind", kind), ("optimizer.learning_rate", "1e-7"), ("model.hidden", "[]")]
    config = load(None, [*AT_ONE, *flags])
    again = given(file, to_yaml(config))
    assert again == config
    assert hash(again) == hash(config)
    assert given(file, print_config(config)) == config


@pytest.mark.parametrize(
    "root",
    [
        "1e-3",
        "0o17",
        "no",
        "true",
        "null",
        "~",
        "12",
        ".inf",
        "2001-01-01",
        "",
        " a b ",
        "a: b",
        "#",
        "{",
        "*a",
        "- a",
        "=",
        "<<",
        "'\"",
        "x" * 300,
        "é/数/🙂",
        "a\nb\tc",
        "\x85\x7f",
        "\ufeffa",
        "C:\\data",
    ],
)
def test_any_folder_name_survives(file, root):
    config = Config.model_validate({"data": {"root": root}})
    assert given(file, to_yaml(config)).data.root == root


def test_resolved_yaml_has_every_key_in_declared_order():
    expected = """\
seed: 0
framework: nnx
data:
  name: digits
  root: null
  validation: null
model:
  num_latents: 8
  num_classes: 8
  hidden: [512]
  prior: uniform
estimator:
  kind: straight_through_gumbel
temperature:
  kind: exponential
  start: 1.0
  end: 0.5
  rate: 0.0002
  every: 1
optimizer:
"""
    assert to_yaml(Config()).startswith(expected)
    keys = re.findall(r"^(?:  )?(\w+):", to_yaml(Config()), re.MULTILINE)
    dumped = Config().model_dump()
    nested = [
        [name, *value] if isinstance(value, dict) else [name] for name, value in dumped.items()
    ]
    assert keys == [name for names in nested for name in names]


def test_printed_temperatures():
    config = load(None, [("temperature.rate", "1e-3"), ("temperature.end", "0.01")])
    lines = print_config(config).removeprefix(to_yaml(config)).splitlines()
    at = dict(re.fullmatch(r"# temperature at step (\d+): (\S+)", line).groups() for line in lines)
    assert list(at) == ["0", "90", "900", "4500", "9000"]
    for step, value in at.items():
        assert float(value) == pytest.approx(max(0.01, math.exp(-1e-3 * int(step))), rel=1e-5)


def test_differences_name_the_key_and_both_values():
    flags = [("seed", "1"), ("temperature.kind", "constant"), ("model.hidden", "[9]")]
    assert differences(Config(), load(None, flags)) == [
        "seed: 0 -> 1",
        "model.hidden: [512] -> [9]",
        "temperature.kind: 'exponential' -> 'constant'",
        "temperature.start: 1.0 -> absent",
        "temperature.end: 0.5 -> absent",
        "temperature.rate: 0.0002 -> absent",
        "temperature.every: 1 -> absent",
        "temperature.value: absent -> 1.0",
    ]
    assert differences(Config(), load(CONFIGS / "digits.yaml")) == ["data.validation: null -> 0"]


def test_configs_are_frozen_values():
    one, two = load(None, [("seed", "1")]), load(None, [("seed", "2")])
    assert len({one, two, load(None, [("seed", "1")])}) == 2
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 2
    with pytest.raises(ValueError, match="start must be at least end"):
        Config.model_validate({"temperature": {"kind": "exponential", "start": 0.1}})


def test_options_cover_every_key_of_every_kind():
    options = config_options()
    expected = {"seed", "framework"}
    for section in ("data", "model", "optimizer", "training", "mesh"):
        expected |= {f"{section}.{key}" for key in getattr(Config(), section).model_dump()}
    for section, _, of in KINDS:
        expected |= {f"{section}.kind"} | {f"{section}.{f.name}" for f in dataclasses.fields(of)}
    assert options.keys() == expected
    assert all(option.type and option.help for option in options.values())
    assert options["temperature.kind"].type == " | ".join(SCHEDULES)
    assert options["temperature.kind"].default == "exponential"
    assert options["temperature.every"] == (
        "integer",
        1,
        "steps from one refresh of the temperature to the next (exponential)",
    )
    assert options["model.hidden"][:2] == ("list of integers", (512,))
    assert options["data.validation"].type == "integer or null"


@pytest.mark.parametrize("name", [n for n in config_options() if not n.endswith(".kind")])
def test_every_default_is_a_valid_flag(name):
    section, *key = name.split(".")
    default = config_options()[name].default
    written = str(list(default)) if isinstance(default, tuple) else str(default)
    flags = [(name, written.replace("None", "null"))]
    kinds = [kind for s, kind, of in KINDS if s == section and key[0] in of.__dataclass_fields__]
    value = load(None, [*flags, *((f"{section}.kind", kind) for kind in kinds[:1])])
    for part in (section, *key):
        value = getattr(value, part)
    assert value == default
