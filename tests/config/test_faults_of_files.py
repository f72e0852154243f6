"""What is refused of a file: every fault, each in one line that says where."""

import pytest

from configs import FALLS, HAS, refusals

pytestmark = pytest.mark.command

MULTIPLE = "checkpoint_every must be a multiple of evaluate_every, got checkpoint_every="
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
