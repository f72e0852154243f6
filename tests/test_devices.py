"""Samples do not depend on devices: 1, 2, 4, 8, or two processes, batch or category axis sharded.

The oracle is each function compiled by itself on the one device of this process, and of the index
an argmax in NumPy. The programs in ``devices.py`` compute the rest: a function is tested because it
is in ``devices.DRAWS``.
"""

import functools
import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import devices
import jax
import numpy as np
import pytest
from devices import ALONE, DRAWS, FEW, LAYOUTS, PROCESSES, SHAPES, label

PROGRAM = Path(devices.__file__)
TIMEOUT = 900
NUMBERS_A_ROW = 64
"""How many devices may exchange, a block; each holds 256 logits a row in the programs read here."""

pytestmark = pytest.mark.slow  # `.ci/run` runs it all the same

every_draw = pytest.mark.parametrize("name", DRAWS)
every_layout = pytest.mark.parametrize("layout", [*LAYOUTS, *ALONE, *PROCESSES], ids=label)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each of the three processes wrote; a process that fails shows its own traceback."""
    folder = tmp_path_factory.mktemp("devices")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    calls = {"eight": [], "first": [address, "0"], "second": [address, "1"]}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-W", "error", PROGRAM, folder / name, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for name, arguments in calls.items()
    }
    try:
        for process in running.values():
            errors = process.communicate(timeout=TIMEOUT)[1]
            assert process.returncode == 0, errors
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return {name: pickle.loads((folder / name).read_bytes()) for name in calls}


@pytest.fixture(scope="module")
def results(outputs):
    return {**outputs["eight"][0], **outputs["first"]}


@functools.cache
def on_one_device(classes, name):
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        function = jax.jit(functools.partial(devices.with_gradients, DRAWS[name]))
        return jax.device_get(function(jax.random.key(7), *devices.inputs(classes)))


def assert_same_draws(found, expected):
    """Bitwise where it is an index, noise or one-hot."""
    for drawn, value in zip(found, expected, strict=True):
        assert (drawn.dtype, drawn.shape) == (value.dtype, value.shape)
        if np.issubdtype(value.dtype, np.integer):
            np.testing.assert_array_equal(drawn, value)
        elif np.all(np.isin(value, [0, 1]) | np.isnan(value)):
            assert_close(drawn, value, scale=0)
        else:
            assert_close(drawn, value)


def assert_close(found, expected, scale=1.0):
    """To 8 units in the last place of 1, and NaN where it is expected and nowhere else."""
    tolerance = 8 * float(jax.numpy.finfo(expected.dtype).eps) * scale
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert np.all((np.abs(found - expected) <= tolerance) | np.isnan(expected))


@every_draw
@every_layout
def test_a_sample_and_its_gradients_are_those_of_one_device(results, layout, name):
    drawn, gradients = results[label(layout)][name]
    expected, expected_gradients = on_one_device(layout[0], name)
    assert_same_draws(drawn, expected)
    temperature = devices.inputs(layout[0])[1]
    scale = devices.LARGEST_WEIGHT / temperature
    if name in devices.OF_ELEMENTS:  # the temperature of a row collects from all its elements
        scale *= SHAPES[layout[0]][1] ** 0.5
    if name == "gumbel_lookup":  # a class collects the cotangents of its row of the table
        scale *= 2
    for gradient, value in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, value, scale)


def test_two_processes_agree_on_what_they_drew(outputs):
    jax.tree.map(np.testing.assert_array_equal, outputs["first"], outputs["second"])


@pytest.mark.parametrize("layout", [x for x in [*LAYOUTS, *PROCESSES] if x[0] == FEW], ids=label)
def test_the_index_is_the_argmax_of_logits_and_noise(results, layout):
    """In NumPy, from the same noise on the same devices; float32 addition is exactly rounded."""
    drawn = {name: found[0] for name, found in results[label(layout)].items()}
    logits = devices.inputs(layout[0])[0].astype(np.float32)
    with np.errstate(invalid="ignore"):
        shifted = np.where(np.isposinf(logits), 0, logits - logits.max(-1, keepdims=True))
        expected = np.argmax(shifted + drawn["gumbel_noise"][0].view(np.float32), -1)
    assert len(np.unique(expected[2:])) > 4
    expected[:2] = -1  # a row with NaN, a row with no class
    np.testing.assert_array_equal(drawn["gumbel_max"][0], expected)
    one_hot = expected[:, None] == np.arange(logits.shape[1])
    np.testing.assert_array_equal(drawn["gumbel_softmax hard"][0][1:], one_hot[1:])


COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (all-gather|all-reduce|all-to-all|ragged-all-to-all|reduce-scatter"
    r"|collective-permute|collective-broadcast)(-start)?\("
)


def dimensions(program):
    """Of every array that a piece of HLO names."""
    return [[int(n) for n in one.split(",") if n] for one in re.findall(r"\w\[([\d,]*)\]", program)]


@every_draw
@pytest.mark.parametrize("layout", ALONE, ids=label)
def test_no_device_gathers_the_logits_of_a_sharded_category_axis(outputs, layout, name):
    """Read from the compiled program: a few numbers a row travel, and no array has every class."""
    rows, num_classes = SHAPES[layout[0]]
    program = outputs["eight"][1][label(layout), name]
    assert [rows, num_classes // 8] in dimensions(program)
    for shape in dimensions(program):
        assert rows * num_classes not in shape and not {rows, num_classes} <= {*shape}, program
    exchanged = [found for line in program.splitlines() if (found := COLLECTIVE.search(line))]
    assert exchanged or name in devices.OF_ELEMENTS
    for found in exchanged:
        for shape in dimensions(found["result"]):
            assert np.prod(shape) <= NUMBERS_A_ROW * rows, found.string


@every_draw
def test_vmap_over_keys_a_loop_and_old_style_keys_agree(name):
    keys = jax.random.split(jax.random.key(7), 3)
    logits, temperature = devices.inputs(FEW)
    draw = jax.jit(lambda key: jax.tree.leaves(DRAWS[name](key, logits, temperature)))
    looped = jax.device_get([draw(key) for key in keys])
    for old_style, expected in zip(jax.random.key_data(keys), looped, strict=True):
        assert_same_draws(jax.device_get(draw(old_style)), expected)
    batched = jax.device_get(jax.vmap(draw)(keys))
    stacked = [np.stack(leaves) for leaves in zip(*looped, strict=True)]
    assert_same_draws(batched, stacked)
