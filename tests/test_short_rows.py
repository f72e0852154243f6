"""Rows of a few classes. Oracles: NumPy and one device."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from samplers import lookup

import gs_modules as gs
from gs_modules._loops import FEW
from gs_modules._rows import SHORT, row_max

KEY = jax.random.key(19)
SIZES = [1, 2, 3, 10, 33]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_maximum_of_a_row_is_that_of_numpy(size, dtype):
    rows = np.random.default_rng(size).normal(size=(50, size)).astype(dtype)
    rows[:10] *= 1e30
    rows[10:20] = -np.abs(rows[10:20])
    rows[20:25, 0] = np.inf
    rows[25:30] = -np.inf
    rows[30:35] = np.finfo(dtype).max
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(lambda rows: row_max(rows, 1))(rows)
        assert found.dtype == dtype
    np.testing.assert_array_equal(found[:, :1], rows.max(1, keepdims=True))


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_a_nan_of_either_sign_makes_its_row_nan_and_no_other(size, hard):
    for nan in (np.nan, -np.nan):
        logits = np.zeros((4, size), np.float32)
        logits[1, size // 2] = np.copysign(np.float32(np.nan), np.float32(nan))
        logits[3, -1] = np.copysign(np.float32(np.nan), np.float32(-nan))
        drawn = np.asarray(jax.jit(lambda x: gs.gumbel_softmax(KEY, x, 0.5, hard=hard))(logits))
        np.testing.assert_array_equal(np.isnan(drawn).all(1), [False, True, False, True])
        np.testing.assert_array_equal(np.isnan(drawn).any(1), [False, True, False, True])
        np.testing.assert_array_equal(gs.gumbel_max(KEY, logits)[1::2], -1)


@pytest.mark.parametrize("classes", [3, SHORT - 1, SHORT, 2 * SHORT, 2 * SHORT + 1, 250])
@pytest.mark.parametrize("numbers", [FEW, 3 * FEW], ids=["few", "many"])
def test_samples_of_few_and_of_many_numbers_are_those_of_numpy(numbers, classes):
    logits = np.random.default_rng(classes).normal(size=(numbers // classes, classes))
    logits = logits.astype(np.float32)
    logits[0], logits[1, -1], logits[2, 1:] = -np.inf, np.nan, -np.inf
    scores = logits.astype(float) + np.asarray(gs.gumbel_noise(KEY, logits.shape))
    with np.errstate(invalid="ignore"):
        weights = np.exp((scores - scores.max(1, keepdims=True)) / 0.5)
    expected = weights / weights.sum(1, keepdims=True)
    expected[0] = 0
    soft = jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, 0.5))(logits)
    np.testing.assert_allclose(soft, expected, rtol=0, atol=3e-6)
    index = jax.jit(lambda logits: gs.gumbel_max(KEY, logits))(logits)
    np.testing.assert_array_equal(index[:2], -1)
    np.testing.assert_array_equal(index[2:], scores[2:].argmax(1))


DRAWN = {name: cls() for name, cls in gs.ESTIMATORS.items() if name != "decoupled"}
DRAWN["lookup"] = lookup


@pytest.mark.parametrize("classes", [1, 2, 3, SHORT, 1001])
@pytest.mark.parametrize("name", sorted(DRAWN))
def test_no_rows_are_no_samples_whatever_their_temperatures(name, classes):
    logits = np.zeros((0, classes), np.float32)
    temperatures = 1.0, np.ones((0, 1), np.float32), np.ones((1, 1), np.float32)

    @jax.jit
    def gradients(logits, *temperatures):
        def total(logits, temperature):
            return DRAWN[name](KEY, logits, temperature).sum()

        return [jax.grad(total)(logits, temperature) for temperature in temperatures]

    found = gradients(logits, *temperatures)
    assert [gradient.shape for gradient in found] == [logits.shape] * 3


@pytest.mark.parametrize("rows", [8, 64])
def test_devices_that_divide_a_batch_draw_few_numbers_without_a_word(rows):
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("shards"))
    logits = jax.device_put(jax.random.normal(KEY, (rows, 10)), sharding)
    temperature = jax.device_put(np.ones((rows, 1), np.float32), sharding)

    def sample(logits, temperature):
        return [gs.gumbel_softmax(KEY, logits, temperature, hard=hard) for hard in (False, True)]

    for of_rows in (temperature, np.float32(1)):
        program = jax.jit(sample).lower(logits, of_rows).compile()
        text = str(program.as_text())
        assert "num_partitions=4" in text and " while(" in text
        assert not re.search(r" (all|collective|reduce-scatter)\S*\(", text)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_few_classes_over_devices_draw_as_on_one(kind, devices):
    mesh = jax.make_mesh((devices,), ("shards",), axis_types=(kind,))
    logits = jax.random.normal(KEY, (6, 8))
    sharded = jax.device_put(logits, NamedSharding(mesh, PartitionSpec(None, "shards")))
    hard = jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, 0.5, hard=True))
    soft = jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, 0.5))
    np.testing.assert_array_equal(hard(sharded), hard(logits))
    np.testing.assert_allclose(soft(sharded), soft(logits), rtol=0, atol=8 * 2.0**-23)
