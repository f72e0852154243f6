"""What a config may say, and what it means: shipped files, kinds, and numbers of YAML 1.2."""

import dataclasses
import math

import pytest

from configs import AT_ONE, CONFIGS, KINDS, given
from gs_modules import ESTIMATORS
from gs_modules.train.config import Config
from gs_modules.train.config_file import load
from gs_modules.train.data import DATASETS
from gs_modules.train.sections import choices
from gs_modules.train.yaml_text import parse, scalar

pytestmark = pytest.mark.command


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "temperature:\nmodel: {}\n"])
def test_what_says_nothing_new_is_the_digits_recipe(file, text):
    config = given(file, text)
    assert config == Config() == load(None)
    assert hash(config) == hash(Config())
    assert (config.data.name, config.training.steps, config.model.hidden) == (
        "digits",
        9000,
        (512,),
    )


@pytest.mark.parametrize(
    ("name", "root", "steps", "every"),
    [
        ("mnist", "data/mnist", 12000, 600),
        ("fashion_mnist", "data/fashion", 12000, 600),
        ("static_mnist", "data", 10000, 500),
    ],
)
def test_configs_of_the_28x28_data_sets(name, root, steps, every):
    config = load(CONFIGS / f"{name}.yaml", check_root=False)
    assert config.data.model_dump() == {
        "name": name,
        "root": root,
        "validation": None if name == "static_mnist" else 0,
    }
    assert (config.model.num_latents, config.model.num_classes) == (4, 8)
    assert config.model.hidden == (512, 256)
    assert (config.training.batch_size, config.optimizer.learning_rate) == (100, 2e-3)
    assert (config.training.steps, config.training.evaluate_every) == (steps, every)
    assert config.estimator.build() == ESTIMATORS["straight_through_gumbel"]()


def test_every_shipped_config_is_tested_here():
    names = {path.stem for path in CONFIGS.glob("*.yaml")} - {"digits_tuned", "tune_digits"}
    assert names == {"digits", "mnist", "fashion_mnist", "static_mnist"} == DATASETS.keys()
    # The other two: tests/tune/test_study_file.py.


@pytest.mark.parametrize(("section", "kind", "of"), KINDS)
def test_every_kind_has_the_fields_of_its_dataclass_and_defaults(section, kind, of):
    options = getattr(load(None, [*AT_ONE, (f"{section}.kind", kind)]), section)
    fields = [field.name for field in dataclasses.fields(of)]
    assert list(options.model_dump()) == ["kind", *fields]
    built = options.build()
    assert type(built) is of
    assert built == of(**{name: getattr(options, name) for name in fields})


def test_a_field_without_a_default_is_seen():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        oddity: float

    model = choices({"odd": Odd}, "oddities")["odd"]
    assert model.model_fields["oddity"].is_required()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1E-3", 1e-3),
        ("2e-4", 2e-4),
        ("1.e2", 100.0),
        (".5", 0.5),
        ("-0.0", -0.0),
        ("6000.0", 6000.0),
        ("-.inf", -math.inf),
        (".INF", math.inf),
        ("12", 12),
        ("-012", -12),
        ("0o17", 15),
        ("0x1F", 31),
        ("+1", 1),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1e", "1e"),
        (".", "."),
        ("2001-01-01", "2001-01-01"),
        ("0b1", "0b1"),
        ("nan", "nan"),
        ("9" * 100, 10**100 - 1),
        ("9" * 101, "9" * 101),
    ],
)
def test_plain_scalars_by_yaml_1_2(text, expected):
    assert repr(scalar(text)) == repr(expected)
    if text:
        assert repr(parse(f"a: [{text}, '{text}', \"{text}\"]").value["a"]) == repr(
            (expected, text, text)
        )


def test_not_a_number_is_read_as_one():
    assert math.isnan(scalar(".nan"))


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "0.001", "1.0e-3", ".001", "10e-4"])
def test_floats_of_a_file_and_of_a_flag(file, written):
    config = given(file, f"optimizer: {{learning_rate: {written}}}", ("temperature.rate", written))
    assert config.optimizer.learning_rate == config.temperature.rate == 1e-3


def test_an_integer_is_fine_as_a_float(file):
    config = given(file, "temperature: {start: 2}")
    assert type(config.temperature.start) is float
    assert config == given(file, "temperature: {start: 2.0}")
