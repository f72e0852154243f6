"""The config: what is accepted, what is refused and where, and that nothing else can happen."""

import dataclasses
import math
import random
import re
import time
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

from gs_modules import ESTIMATORS, SCHEDULES
from gs_modules.train.config import Config, config_options, differences, print_config, to_yaml
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.data import DATASETS
from gs_modules.train.sections import choices
from gs_modules.train.yaml_text import MAX_BYTES, YamlError, parse, scalar

CONFIGS = Path(__file__).parents[1] / "configs"
DIGITS = (CONFIGS / "digits.yaml").read_text()
KINDS = [("estimator", kind, of) for kind, of in ESTIMATORS.items()]
KINDS += [("temperature", kind, of) for kind, of in SCHEDULES.items()]
AT_ONE = [("temperature.kind", "constant")]
"""A temperature at which every estimator is defined."""

pytestmark = pytest.mark.command


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("c.yaml")


def given(file, text, *flags):
    file.write_text(text, encoding="utf-8")
    return load(file, flags)


def refusals(file, text, *flags):
    with pytest.raises(ConfigError) as refused:
        given(file, text, *flags)
    assert str(refused.value) == "\n".join(refused.value.lines)
    return refused.value.lines


# What is accepted.


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


# What is refused: every fault, each in one line that says where.

HAS = "a config has seed, framework, data, model, estimator, temperature, optimizer, training, mesh"
MULTIPLE = "checkpoint_every must be a multiple of evaluate_every, got checkpoint_every="
FALLS = (
    "Exponential falls: start must be at least end, got start=0.3 and end=0.4; "
    "for a rising temperature use Linear or Cosine"
)
FAULTS = [
    ("temprature: {}", ["1: temprature: unknown key 'temprature'; did you mean 'temperature'?"]),
    ("\nzzz: 1", [f"2: zzz: unknown key 'zzz'; {HAS}"]),
    ("'': 1", [f"1: '': unknown key ''; {HAS}"]),
    (
        "learning_rate: 1",
        ["1: learning_rate: unknown key 'learning_rate'; did you mean 'optimizer.learning_rate'?"],
    ),
    ("temperature:\n  ned: 1", ["2: temperature.ned: unknown key 'ned'; did you mean 'end'?"]),
    (
        "temperature:\n  kind: linear\n  period: 7",
        ["3: temperature.period: unknown key 'period'; linear has kind, start, end, steps"],
    ),
    (
        "model:\n  zzz: 1",
        ["2: model.zzz: unknown key 'zzz'; model has num_latents, num_classes, hidden, prior"],
    ),
    (
        "temperature:\n  kind: exponentail\n  end: -1",
        [
            "2: temperature.kind: unknown kind 'exponentail'; did you mean 'exponential'?",
            "3: temperature.end: Exponential end must be positive and finite in float32, got -1.0",
        ],
    ),
    (
        "temperature: {kind: 5}",
        [
            "1: temperature.kind: expected one of constant, linear, exponential, cosine, "
            "piecewise, cyclic, got 5"
        ],
    ),
    ("framework: Linnen", ["1: framework: unknown framework 'Linnen'; did you mean 'linen'?"]),
    ("framework: torch", ["1: framework: unknown framework 'torch'; there are nnx, linen, haiku"]),
    ("framework: null", ["1: framework: expected one of nnx, linen, haiku, got null"]),
    ("data:\n  name: minst", ["2: data.name: unknown name 'minst'; did you mean 'mnist'?"]),
    ("data: {root: 5}", ["1: data.root: expected text, got 5"]),
    ("data: [1]", ["1: data: expected keys and values, got [1]"]),
    ("temperature: hot", ["1: temperature: expected keys and values, got 'hot'"]),
    ("seed: ten", ["1: seed: expected an integer, got 'ten'"]),
    (f"seed: {'9' * 5000}", [f"1: seed: expected an integer, got '{'9' * 56}..."]),
    (
        f"optimizer: {{learning_rate: -{'9' * 101}}}",
        [f"1: optimizer.learning_rate: expected a number, got '-{'9' * 55}..."],
    ),
    ("seed: '10'", ["1: seed: expected an integer, got '10'"]),
    ("seed: true", ["1: seed: expected an integer, got true"]),
    ("seed: {a: 1}", ["1: seed: expected an integer, got keys and values"]),
    ("seed: -1", ["1: seed: must be at least 0, got -1"]),
    ("seed: 4294967296", ["1: seed: must be less than 4294967296, got 4294967296"]),
    ("training:\n  steps: 6000.0", ["2: training.steps: expected an integer, got 6000.0"]),
    ("training: {steps: 0}", ["1: training.steps: must be at least 1, got 0"]),
    (
        "training: {steps: 2147483648}",
        ["1: training.steps: must be at most 2147483647, got 2147483648"],
    ),
    (
        "training:\n  evaluate_every: 500\n  checkpoint_every: 700",
        [f"3: training.checkpoint_every: {MULTIPLE}700 and evaluate_every=500"],
    ),
    (
        "training:\n  evaluate_every: 700",
        [f"2: training.evaluate_every: {MULTIPLE}4500 and evaluate_every=700"],
    ),
    ("model: {num_classes: 1}", ["1: model.num_classes: must be at least 2, got 1"]),
    (
        "training: {flip_probability: 1}",
        ["1: training.flip_probability: must be at most 0.5, got 1"],
    ),
    (
        "training: {flip_probability: true}",
        ["1: training.flip_probability: expected a number, got true"],
    ),
    ("model: {hidden: 256}", ["1: model.hidden: expected a list, got 256"]),
    (
        "model:\n  hidden:\n  - 5\n  - 0\n  - a",
        [
            "4: model.hidden[1]: must be at least 1, got 0",
            "5: model.hidden[2]: expected an integer, got 'a'",
        ],
    ),
    (
        "optimizer: {learning_rate: 0}",
        ["1: optimizer.learning_rate: must be greater than 0.0, got 0"],
    ),
    ("optimizer: {learning_rate: .inf}", ["1: optimizer.learning_rate: must be finite, got inf"]),
    ("optimizer: {learning_rate: 1e400}", ["1: optimizer.learning_rate: must be finite, got inf"]),
    ("optimizer: {weight_decay: .nan}", ["1: optimizer.weight_decay: must be finite, got nan"]),
    ("optimizer: {weight_decay: no}", ["1: optimizer.weight_decay: expected a number, got 'no'"]),
    ("temperature:\n  start: 0.3\n  end: 0.4", [f"2: temperature.start: {FALLS}"]),
    (
        "temperature:\n  start: -1\n  every: 0\n  rate: fast\n  end: 1e-50",
        [
            "2: temperature.start: Exponential start must be positive and finite in float32, "
            "got -1.0",
            "3: temperature.every: Exponential every must be in 1 .. 2**31 - 1, got 0",
            "4: temperature.rate: expected a number, got 'fast'",
            "5: temperature.end: Exponential end must be positive and finite in float32, got 1e-50",
        ],
    ),
    (
        "temperature: {kind: piecewise, values: [1, 2, 3], boundaries: [5, 4]}",
        ["1: temperature.boundaries: Piecewise boundaries must rise strictly, got (5, 4)"],
    ),
    (
        "temperature:\n  kind: piecewise\n  values: [1, 2, 3]",
        [
            "3: temperature.values: Piecewise needs one value more than boundaries, got 3 values "
            "and 1 boundaries"
        ],
    ),
    ("seed: 1\nmodel: {}\nseed: 2", ["3: seed: repeated key; line 1 has it already"]),
    (
        "model:\n  num_latents: 1\n\n  num_latents: 1",
        ["4: model.num_latents: repeated key; line 2 has it already"],
    ),
    (
        "model:\n  num_latents: 1\nmodel:\n  num_latents: 0",
        ["3: model: repeated key; line 1 has it already"],
    ),
    (
        "seed: -1\nsead: 1\nframework: 5\nseed: 2\nmodel:\n  hidden: 1\n  prior: flat",
        [
            "1: seed: must be at least 0, got -1",
            "2: sead: unknown key 'sead'; did you mean 'seed'?",
            "3: framework: expected one of nnx, linen, haiku, got 5",
            "4: seed: repeated key; line 1 has it already",
            "6: model.hidden: expected a list, got 1",
            "7: model.prior: unknown prior 'flat'; there are uniform, learned",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_faults_of_a_file(file, text, expected):
    assert refusals(file, text) == [f"c.yaml:{line}" for line in expected]


IDX = "train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz; they come from "
FILES = {
    "mnist": IDX + "Yann LeCun's MNIST (yann.lecun.com/exdb/mnist), the four IDX .gz files",
    "fashion_mnist": IDX + "Zalando Research's Fashion-MNIST "
    "(github.com/zalandoresearch/fashion-mnist), the four IDX .gz files",
    "static_mnist": "binarized_mnist_train.amat, binarized_mnist_valid.amat, "
    "binarized_mnist_test.amat; they come from Hugo Larochelle's fixed binarisation of MNIST "
    "(www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist), three .amat files or one .npz",
}
COSINE = "temperature:\n  kind: exponential\n  start: 0.9\n  rate: 1e-3\n  every: 5\n"


REINMAX = (
    "temperature of ReinMax must be at least 1, got {}; for a smaller one use StraightThrough or "
    "GappedStraightThrough; temperature.kind {} reaches it at step {} of training.steps {}"
)


@pytest.mark.parametrize(
    ("text", "flags", "place", "reached"),
    [
        (
            "\nestimator: {kind: reinmax}",
            [],
            "c.yaml:2: estimator.kind",
            (0.5, "exponential", 8999, 9000),
        ),
        ("", [("estimator.kind", "reinmax")], "--estimator.kind", (0.5, "exponential", 8999, 9000)),
        (
            "estimator: {kind: reinmax}",
            [("temperature.kind", "linear"), ("temperature.steps", "2"), ("training.steps", "2")],
            "--temperature.kind",
            (0.75, "linear", 1, 2),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: linear, start: 0.25, end: 2}",
            [],
            "c.yaml:1: estimator.kind",
            (0.25, "linear", 0, 9000),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: constant}",
            [("temperature.value", "0.75")],
            "--temperature.value",
            (0.75, "constant", 0, 9000),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: piecewise, values: [1, 0.5, 2]}",
            [("temperature.boundaries", "[8, 8998]")],
            "--temperature.boundaries",
            (0.5, "piecewise", 8, 9000),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: cyclic, period: 9000, end: 0.5}",
            [],
            "c.yaml:1: estimator.kind",
            (0.5, "cyclic", 8999, 9000),
        ),
    ],
)
def test_an_estimator_is_refused_where_a_temperature_of_the_run_is(
    file, text, flags, place, reached
):
    assert refusals(file, text, *flags) == [f"{place}: {REINMAX.format(*reached)}"]


@pytest.mark.parametrize(
    "temperature",
    [
        "{kind: constant}",
        "{kind: linear, start: 2, end: 1}",
        "{kind: cosine, start: 2, end: 1, steps: 100}",
        "{kind: exponential, start: 1.5, end: 0.5, rate: 4e-5}",  # 1.046 at the last step
        "{kind: piecewise, values: [1, 0.5], boundaries: [9000]}",
        "{kind: cyclic, start: 2, end: 1}",
        "{kind: cyclic, start: 3, end: 0.9, period: 10000}",
    ],
)
def test_an_estimator_is_accepted_where_every_temperature_of_the_run_is(file, temperature):
    config = given(file, f"estimator: {{kind: reinmax}}\ntemperature: {temperature}")
    steps = np.arange(config.training.steps)
    assert np.min(jax.vmap(config.temperature.build())(steps)) >= 1


def test_flags_win_and_a_new_kind_drops_what_was_of_the_old_one(file):
    flags = [
        ("temperature.end", "0.3"),
        ("temperature.kind", "cosine"),
        ("seed", "1"),
        ("seed", "7"),
    ]
    config = given(file, COSINE, *flags, ("model.hidden", "[64,32]"), ("framework", "linen"))
    expected = {"kind": "cosine", "start": 0.9, "end": 0.3, "steps": 9000}
    assert config.temperature.model_dump() == expected
    assert (config.seed, config.model.hidden, config.framework) == (7, (64, 32), "linen")
    assert load(None, [("temperature.end", "0.3")]).temperature.build() == SCHEDULES["exponential"](
        1.0, 0.3, 2e-4
    )


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        (
            "",
            [("temprature.end", "1")],
            ["--temprature.end: unknown key 'temprature'; did you mean 'temperature'?"],
        ),
        (
            "",
            [("temperature.ned", "1")],
            ["--temperature.ned: unknown key 'ned'; did you mean 'end'?"],
        ),
        ("", [("sead", "1")], ["--sead: unknown key 'sead'; did you mean 'seed'?"]),
        ("", [("a.b.c", "1")], [f"--a.b.c: unknown key 'a'; {HAS}"]),
        ("", [("temperature", "1")], ["--temperature: expected keys and values, got 1"]),
        (
            COSINE,
            [("temperature.kind", "cosine"), ("temperature.rate", "1")],
            ["--temperature.rate: unknown key 'rate'; cosine has kind, start, end, steps"],
        ),
        (
            COSINE + "  evry: 1\n",
            [("temperature.kind", "cosine")],
            ["c.yaml:6: temperature.evry: unknown key 'evry'; cosine has kind, start, end, steps"],
        ),
        (
            COSINE + "  period: 1\n",
            [("temperature.kind", "exponential")],
            [
                "c.yaml:6: temperature.period: unknown key 'period'; exponential has kind, start, "
                "end, rate, every"
            ],
        ),
        (
            COSINE,
            [("temperature.kind", "cosin"), ("seed", "x")],
            [
                "--temperature.kind: unknown kind 'cosin'; did you mean 'cosine'?",
                "--seed: expected an integer, got 'x'",
            ],
        ),
        (
            "temperature: {start: 0.3}",
            [("temperature.end", "0.4")],
            [f"--temperature.end: {FALLS}"],
        ),
        (
            "",
            [("model.hidden", "[1, a]")],
            ["--model.hidden: model.hidden[1]: expected an integer, got 'a'"],
        ),
        (
            "model:\n  hidden: [0]\nseed: -1",
            [("model.hidden", "[1, 2")],
            [
                "c.yaml:3: seed: must be at least 0, got -1",
                "--model.hidden: while parsing a flow sequence: expected ',' or ']', but got "
                "'<stream end>'",
                "--model.hidden: model.hidden[0]: must be at least 1, got 0",
            ],
        ),
        (
            "",
            [("seed", "&a 1")],
            ["--seed: anchors (&) and aliases (*) are not allowed; write the value out"],
        ),
        ("", [("seed", "!!int 1")], ["--seed: tags (!) are not allowed; write the plain value"]),
        ("", [("seed", "1\n---\n2")], ["--seed: several documents, expected one"]),
        (
            "model: 5",
            [("model.num_latents", "3")],
            ["c.yaml:1: model: expected keys and values, got 5"],
        ),
        (
            "",
            [("data.name", "mnist")],
            [
                "--data.name: data.root: missing; mnist is read from a folder that holds "
                f"{FILES['mnist']}"
            ],
        ),
    ],
)
def test_faults_of_flags(file, text, flags, expected):
    assert refusals(file, text, *flags) == expected


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"digits"}))
def test_a_data_set_of_files_needs_a_folder(file, tmp_path, name):
    text = f"seed: -1\ndata:\n  name: {name}\n"
    seed = "c.yaml:1: seed: must be at least 0, got -1"
    missing = f"missing; {name} is read from a folder that holds {FILES[name]}"
    assert refusals(file, text) == [seed, f"c.yaml:2: data.root: {missing}"]
    text += "  root: here\n"
    no_folder = f"{tmp_path / 'here'} is not a folder; it must hold {FILES[name]}"
    assert refusals(file, text) == [seed, f"c.yaml:4: data.root: {no_folder}"]
    Path("here").write_text("a file is no folder")
    assert refusals(file, text) == [seed, f"c.yaml:4: data.root: {no_folder}"]
    Path("here").unlink()
    Path("here").mkdir()
    assert given(file, text, ("seed", "0")).data.root == "here"
    assert load(None, [("data.name", name)], check_root=False).data.name == name


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"digits"}))
def test_a_shipped_config_without_its_data_says_what_to_fetch(file, tmp_path, name):
    del file  # for its empty folder
    with pytest.raises(ConfigError) as refused:
        load(CONFIGS / f"{name}.yaml")
    root = load(CONFIGS / f"{name}.yaml", check_root=False).data.root
    (fault,) = refused.value.lines
    assert re.match(rf"\S+{name}.yaml:\d+: data.root: {tmp_path / root} is not a folder; ", fault)
    assert fault.endswith(FILES[name])


# Hostile YAML.

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
ANCHORS = "anchors (&) and aliases (*) are not allowed; write the value out"
TAGS = "tags (!) are not allowed; write the plain value"
MERGE = "merge keys (<<) are not allowed; write the keys out"
DEEP = "nested deeper than 20 levels"
RANGE = "a number or an escaped character out of range"
MANY = "more than 5000 keys and values, which no config has"
FIRST = "expected keys and values, such as 'seed: 0'"
HOSTILE = {
    "laughs": (LAUGHS, f"1: {ANCHORS}"),
    "alias": ("seed: 1\nmodel: *a", f"2: {ANCHORS}"),
    "anchored key": ("&a seed: 1", f"1: {ANCHORS}"),
    "anchored mapping": ("model: &a\n  num_latents: 1", f"1: {ANCHORS}"),
    "merge": ("seed: 1\n<<: {seed: 2}", f"2: {MERGE}"),
    "merge below": ("model:\n  <<: {num_latents: 1}", f"2: {MERGE}"),
    "python": ("seed: 1\nmodel: !!python/object/apply:os.system [ls]", f"2: {TAGS}"),
    "tag": ("seed: !x 1", f"1: {TAGS}"),
    "tag without a name": ("seed: ! 1", f"1: {TAGS}"),
    "harmless tag": ("seed: !!int 1", f"1: {TAGS}"),
    "tagged key": ("!!str seed: 1", f"1: {TAGS}"),
    "deep list": ("a: " + "[" * 50_000, f"1: {DEEP}"),
    "deep mapping": ("{a: " * 20_000, f"1: {DEEP}"),
    "deep block": ("\n".join(" " * i + "a:" for i in range(300)), f"21: {DEEP}"),
    "deep dashes": ("- " * 40_000, f"1: {DEEP}"),
    "deep keys": ("? " * 40_000, "1: a list or a mapping cannot be a key"),
    "list as a key": ("[a, b]: 1", "1: a list or a mapping cannot be a key"),
    "many keys": ("".join(f"a{i}: 1\n" for i in range(8_000)), f"2500: {MANY}"),
    "many elements": ("model: {hidden: [" + "1," * 40_000 + "]}", f"1: {MANY}"),
    "documents": ("seed: 1\n---\nseed: 2", "2: several documents, expected one"),
    "list": ("- seed: 1", f"1: {FIRST}"),
    "number": ("\n5", f"2: {FIRST}"),
    "text": ("x" * 90_000, f"1: {FIRST}"),
    "null character": ("seed: 1\nframework: \0", "2: character U+0000 is not allowed"),
    "escaped null": ('data: {root: "~\\0"}', "1: null characters are not allowed"),
    "no such character": ('seed: 1\nframework: "\\U99999999"', f"2: {RANGE}"),
    "half a character": ('seed: 1\n"\\ud800": 1', f"2: {RANGE}"),
    "long version": ("%YAML 1." + "9" * 5000 + "\n---\nseed: 1", f"1: {RANGE}"),
    "colons": ("seed: 1\na: b: c", "2: mapping values are not allowed here"),
    "tab": (
        "seed: 1\n\t- a",
        "2: while scanning for the next token: found character '\\t' that cannot start any token",
    ),
    "open": (
        "seed: [",
        "1: while parsing a flow node: expected the node content, but found '<stream end>'",
    ),
    "long": ("#" * (MAX_BYTES + 1), f" larger than {MAX_BYTES} bytes, which no config is"),
    "megabyte": ("a: [" + "[], " * 260_000, f" larger than {MAX_BYTES} bytes, which no config is"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_at_once(file, name):
    text, expected = HOSTILE[name]
    file.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert time.process_time() - start < 1
    assert refused.value.lines == [f"c.yaml:{expected}"]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"a{i}: 1\n" for i in range(2_490)),
        "model: {" + "".join(f"a{i}: 1, " for i in range(2_490)) + "}",
        "model: {hidden: [" + "0, " * 4_980 + "]}",
        "seed: 1\n" * 2_490,
        "a" * 999 + ": 1\n" + "temperature: {kind: " + "b" * 90_000 + "}",
        'framework: "' + "x " * 49_000 + '"',
    ],
)
def test_the_worst_within_the_limits_takes_less_than_a_second(file, text):
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert time.process_time() - start < 1
    assert all(line.startswith("c.yaml:") and len(line) < 250 for line in refused.value.lines)


def test_hostile_yaml_takes_no_memory(file):
    tracemalloc.start()
    for name in ("laughs", "deep mapping", "many elements", "megabyte"):
        file.write_text(HOSTILE[name][0])
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with pytest.raises(ConfigError):
            load(file)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 10_000_000, name
    tracemalloc.stop()


def test_twenty_levels_are_not_too_deep(file):
    def nested(levels):
        return "seed: " + "[" * (levels - 1) + "]" * (levels - 1)

    assert refusals(file, nested(20))[0].startswith("c.yaml:1: seed: expected an integer, got [")
    assert refusals(file, nested(21)) == [f"c.yaml:1: {DEEP}"]


def test_files_that_are_none(file, tmp_path):
    for path, reason in {
        "no.yaml": "cannot be read: No such file or directory",
        ".": "cannot be read: Is a directory",
        "a\0b": "cannot be read: embedded null byte",
    }.items():
        with pytest.raises(ConfigError) as refused:
            load(path)
        assert refused.value.lines == [f"{path}: {reason}"]
    for content in (b"seed: 1\nframework: \xff", "seed: 1\nframework: nnx".encode("utf-16")):
        file.write_bytes(content)
        with pytest.raises(ConfigError) as refused:
            load(file)
        line = 2 if content.startswith(b"seed") else 1
        assert refused.value.lines == [f"c.yaml:{line}: not UTF-8 text"]
    file.write_bytes(b"\xef\xbb\xbfseed: 1\r\nframework: linen\r\n")  # as Windows' editor saves
    assert (load(file).seed, load(file).framework) == (1, "linen")


# Mutations, whose verdict is known from how they were made.

LINE = re.compile(r"( *)(\w+):(?: ([^#]*?))?(?: *#.*)?$")
INTEGER = ["ten", "1.5", "6e3", "true", "[1]", "null", "{a: 1}", "-1"]
NUMBER = ["ten", "true", "[1.0]", "null", ".nan", "-.inf", "-1", "'0.1'"]
NAME = ["5", "true", "[nnx]", "null", "zzz", "{a: 1}", "''"]
VALUES = {  # of every key of digits.yaml: wrong ones, and a right one with what it is
    "seed": (INTEGER, ("3", 3)),
    "framework": (NAME, ("linen", "linen")),
    "data.name": (NAME, ("'digits'", "digits")),
    "model.num_latents": ([*INTEGER, "0"], ("5", 5)),
    "model.num_classes": ([*INTEGER, "1"], ("0x10", 16)),
    "model.hidden": (["5", "abc", "null", "[a]", "[1.5]", "[0]", "{a: 1}"], ("[7]", (7,))),
    "estimator.kind": (NAME, ("pathwise", "pathwise")),
    "temperature.kind": ([*NAME, "linear", "constant"], ("exponential", "exponential")),
    "temperature.start": ([*NUMBER, "0", "0.1"], ("2", 2.0)),
    "temperature.end": ([*NUMBER, "0"], ("1E-1", 0.1)),
    "temperature.rate": ([*NUMBER, "0"], ("1e-5", 1e-5)),
    "optimizer.learning_rate": ([*NUMBER, "0"], ("3e-4", 3e-4)),
    "data.validation": ([wrong for wrong in INTEGER if wrong != "null"], ("5", 5)),
    "optimizer.decay": (NAME, ("none", "none")),
    "training.flip_probability": ([*NUMBER, "0.6"], ("1e-1", 0.1)),
    "training.steps": ([*INTEGER, "0"], ("10", 10)),
    "training.batch_size": ([*INTEGER, "0"], ("7", 7)),
    "training.evaluate_every": ([*INTEGER, "0"], ("300", 300)),
    "training.checkpoint_every": ([*INTEGER, "0", "500"], ("1800", 1800)),
}


def keys_of(text):
    """The (line, section, key) of each key and each section of a file like digits.yaml."""
    found, section = [], None
    for number, line in enumerate(text.splitlines()):
        if not line or line.startswith("#"):
            continue
        indent, key, value = LINE.fullmatch(line).groups()
        section = section if indent else None
        found.append((number, section, key))
        if value is None:
            section = key
    return found


def mutated(seed):
    """The text, the lines to blame (none: it is valid), and what must then differ from before."""
    draw = random.Random(seed)
    lines = DIGITS.splitlines()
    everywhere = keys_of(DIGITS)
    leaves = [place for place in everywhere if LINE.fullmatch(lines[place[0]])[3]]
    number, section, key = draw.choice(leaves)
    name = key if section is None else f"{section}.{key}"
    match seed % 6:
        case 0:  # deleted; digits.yaml holds the defaults, but for its validation part
            lines.pop(number)
            return lines, [], {name: None} if name == "data.validation" else {}
        case 1:  # misspelt
            number, section, key = draw.choice(everywhere)
            at = draw.randrange(len(key))
            lines[number] = lines[number].replace(key, key[:at] + key[at] + key[at:], 1)
            return lines, [number], {}
        case 2:  # doubled
            lines.insert(number, lines[number])
            return lines, [number + 1], {}
        case 3:  # swapped with a key of another section, or of its own
            other = draw.choice([place for place in leaves if place[2] != key])
            a, b = number, other[0]
            indents = [LINE.fullmatch(lines[n])[1] for n in (a, b)]
            lines[a], lines[b] = indents[0] + lines[b].strip(), indents[1] + lines[a].strip()
            return lines, [] if other[1] == section else [a, b], {}
        case 4:  # a value of another type, or one that cannot be
            wrong = draw.choice(VALUES[name][0])
            lines[number] = re.sub(r":.*", lambda _: f": {wrong}", lines[number])
            return lines, [number], {}
        case _:  # another value that can be
            written, value = VALUES[name][1]
            lines[number] = re.sub(r":.*", lambda _: f": {written}", lines[number])
            return lines, [], {name: value}


@pytest.mark.parametrize("seed", range(200))
def test_mutations_of_a_config(file, seed):
    lines, blamed, changed = mutated(seed)
    text = "\n".join(lines)
    if not blamed:
        config = given(file, text)
        expected = load(CONFIGS / "digits.yaml").model_dump()
        for name, value in changed.items():
            *section, key = name.split(".")
            (expected[section[0]] if section else expected)[key] = value
        assert config.model_dump() == expected
        return
    faults = refusals(file, text)
    at = {int(re.match(r"c\.yaml:(\d+): [\w.\[\]]+: \S", fault)[1]) for fault in faults}
    if "  kind: linear" in lines or "  kind: constant" in lines:
        # The kind is right; the keys of the old one below it are wrong.
        assert at and min(at) > blamed[0] + 1
    elif lines[blamed[0]].lstrip().startswith("kind:") and len(blamed) == 1:
        assert blamed[0] + 1 in at
    else:
        assert at == {line + 1 for line in blamed}
    assert not re.search(r"Input should|pydantic|https?:|\n", "".join(faults))


def test_the_mutations_reach_every_key():
    assert {f"{s}.{k}" if s else k for _, s, k in keys_of(DIGITS)} >= VALUES.keys()
    leaves = [k for n, _, k in keys_of(DIGITS) if LINE.fullmatch(DIGITS.splitlines()[n])[3]]
    assert len(leaves) == len(VALUES)


def test_damaged_bytes_never_give_another_exception(file):
    draw, accepted = random.Random(0), 0
    for _ in range(300):
        content = bytearray(DIGITS.encode())
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            content[at : at + draw.randint(0, 2)] = draw.choice(
                [
                    b"\xff",
                    b"\0",
                    b":",
                    b"\n",
                    b"\t",
                    b"[",
                    b"{",
                    b"&a ",
                    b"*a",
                    b"!",
                    b"- ",
                    b'"',
                    b"?",
                    b"9",
                ]
            )
        file.write_bytes(content)
        try:
            load(file)
            accepted += 1
        except ConfigError as refused:
            assert all(line.startswith("c.yaml:") for line in refused.lines)
    assert 0 < accepted < 300


# Out again.


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


def test_a_refused_document_says_its_line():
    with pytest.raises(YamlError) as refused:
        parse("a: 1\nb: *c")
    assert (refused.value.line, refused.value.reason) == (2, ANCHORS)
