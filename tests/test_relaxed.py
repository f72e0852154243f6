"""The samples: their bits, their edge cases and their dtypes.

Their law is in ``test_law.py``, what is differentiated in ``test_derivatives.py``.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from samplers import (
    DTYPES,
    KEY,
    LOGITS,
    ROWS,
    SAMPLERS,
    assert_one_hot,
    compiled,
    every_dtype,
    every_sampler,
)

import gs_modules as gs

# --- one index, one-hot bits -------------------------------------------------------------------


@every_dtype
def test_one_key_gives_one_index_and_one_hot_bits_whatever_asks_for_it(dtype):
    logits = jax.random.normal(jax.random.key(1), (300, 7), dtype)

    def loss(name, logits, temperature):
        drawn = SAMPLERS[name](KEY, logits, temperature)
        return (drawn * drawn).sum(dtype=jnp.float32), drawn

    def differentiated(name):
        function = functools.partial(loss, name)
        gradient = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))
        return lambda temperature: gradient(logits, temperature)[0][1]

    hard = differentiated("hard")
    forward = jax.jit(lambda x: jax.jvp(lambda x: SAMPLERS["hard"](KEY, x), (x,), (x,))[0])
    index = gs.gumbel_max(KEY, logits)
    assert index.dtype == jnp.int32 and len(np.unique(index)) == 7
    expected = np.eye(7, dtype=dtype)[np.asarray(index)]
    samples = {
        "eager": SAMPLERS["hard"](KEY, logits),
        "value_and_grad": hard(0.5),
        "cold": hard(1e-3),
        "coldest": hard(1e-38),
        "hot": hard(100.0),
        "jvp": forward(logits),
        "StraightThrough": differentiated("straight_through")(0.5),
    }
    for name, sample in samples.items():
        assert_one_hot(sample, dtype)
        np.testing.assert_array_equal(sample, expected, err_msg=name)
    largest = np.asarray(logits.argmax(-1))
    np.testing.assert_array_equal(differentiated("argmax")(0.5), np.eye(7)[largest])
    assert_one_hot(differentiated("argmax")(0.5), dtype)


@pytest.mark.parametrize("num_classes", [3, 1000])
def test_the_hard_sample_attains_the_maximum_of_the_soft_one(num_classes):
    logits = jax.random.normal(jax.random.key(2), (200, num_classes))
    index = np.asarray(gs.gumbel_max(KEY, logits))[:, None]
    for dtype in DTYPES:
        soft = gs.gumbel_softmax(KEY, logits, 0.7, dtype=dtype)
        at_index = np.take_along_axis(np.asarray(soft), index, -1)
        np.testing.assert_array_equal(at_index, soft.max(-1, keepdims=True))


def test_typed_and_old_style_keys_vmap_over_keys_and_a_loop_agree():
    keys = jax.random.split(KEY, 4)

    @jax.jit
    def draw(key):
        hard = (SAMPLERS["hard"](key, LOGITS), SAMPLERS["straight_through"](key, LOGITS, 0.5))
        return SAMPLERS["soft"](key, LOGITS), *hard, gs.gumbel_max(key, LOGITS)

    looped = [np.array(drawn) for drawn in zip(*map(draw, keys), strict=True)]
    old_style = zip(*(draw(jax.random.key_data(key)) for key in keys), strict=True)
    for one, other, batched in zip(looped, old_style, jax.vmap(draw)(keys), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, batched, rtol=0, atol=8 * 2.0**-23)
    assert np.all(np.isin(looped[1], [0, 1])) and len(np.unique(looped[0])) > 40


# --- excluded classes, extreme logits, bad rows ------------------------------------------------


@every_sampler
@every_dtype
def test_excluded_classes_have_no_weight_and_no_gradient(name, dtype):
    run = compiled(name, dtype)
    where = np.array([True, False, True, True, False])
    expected = run(ROWS, where=where)
    assert np.all(expected.sample[:, ~where] == 0) and np.all(expected.to_logits[:, ~where] == 0)
    np.testing.assert_allclose(expected.sample.astype(np.float32).sum(-1), 1, atol=5e-3)
    assert all(np.all(np.isfinite(values)) for values in expected)
    assert np.all(np.any(expected.to_logits != 0, -1))
    for hidden, mask in [(np.nan, where), (np.inf, where), (-np.inf, where), (-np.inf, True)]:
        # A table mixes the cotangents of all classes before they arrive: 0 * inf is NaN there.
        for derivative in (None,) if name == "lookup" else (None, np.nan, np.inf, -np.inf):
            weights = np.where(where, np.arange(5.0) - 1.5, derivative or -0.5)
            drawn = run(np.where(where, ROWS, hidden), 0.5, mask, weights, weights)
            for found, value in zip(drawn, expected, strict=True):
                np.testing.assert_array_equal(found, value)


LARGEST = 3.4028235e38
EXTREMES = [
    [np.inf, np.inf, 0.0, 1.0, -np.inf],
    [LARGEST, -LARGEST, LARGEST, 0.0, -np.inf],
    [-LARGEST, -LARGEST, -LARGEST, -LARGEST, -np.inf],
    [6e4, -6e4, 6e4, 0.0, 1.0],
    [-6e4, -6e4, -6e4, -6e4, -6e4],
    [1e9, 1e9, 1e9, -1e9, 0.0],
    [6e-8, 0.0, 3e-5, -6e-8, 1e-7],
    [-np.inf, -np.inf, -np.inf, -np.inf, -LARGEST],
]


@every_sampler
@every_dtype
def test_extreme_logits_and_temperatures_stay_finite(name, dtype):
    largest = float(jnp.finfo(dtype).max)
    logits = [
        [x if np.isinf(x) else np.clip(x, -largest, largest) for x in row] for row in EXTREMES
    ]
    for temperature in (1e-38, 1e-20, 1e-3, 1.0, 1e38, np.inf):
        drawn = compiled(name, dtype)(logits, temperature)
        sample = drawn.sample.astype(np.float64)
        np.testing.assert_allclose(sample.sum(-1), 1, atol=8e-3)
        assert np.all(sample >= 0) and np.all(drawn.index >= 0)
        assert np.all(sample[np.isneginf(logits)] == 0)
        assert np.all(np.isfinite(drawn.to_temperature))
        # a tie at temperature 1e-38 has a derivative of 1e37: more than float16 can hold
        if temperature >= 1e-3 or dtype != jnp.float16:
            assert np.all(np.isfinite(drawn.to_logits)) and np.all(np.isfinite(drawn.forward))


def test_a_subnormal_temperature_of_float32_is_positive_beside_logits_of_float64():
    with jax.enable_x64(True):
        logits = jnp.array([[0.0, 1.0, 0.5]], jnp.float64)
        sample = jax.jit(lambda t: gs.gumbel_softmax(KEY, logits, t))(jnp.float32(1e-38))
        expected = jax.nn.one_hot(gs.gumbel_max(KEY, logits), 3, dtype=jnp.float64)
        np.testing.assert_array_equal(sample, expected)
        for wrong in (0.0, -1e-38, np.nan):
            nan = jax.jit(lambda t: gs.gumbel_softmax(KEY, logits, t))(jnp.float32(wrong))
            assert np.all(np.isnan(nan))


@pytest.mark.parametrize("shape", [*(f"rows, {n}" for n in (2, 3, 10, 63, 64)), "rows, classes"])
def test_a_deterministic_sample_is_exported_with_any_number_of_rows_and_of_classes(shape):
    symbols = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    exported = jax.export.export(jax.jit(gs.straight_through_argmax))(symbols)
    logits = jax.random.normal(KEY, (5, 7 if "classes" in shape else int(symbols.shape[1])))
    np.testing.assert_array_equal(exported.call(logits), gs.straight_through_argmax(logits))


@pytest.mark.parametrize("shape", ["rows, 2", "rows, 10", "rows, 1001", "rows, classes"])
def test_a_sample_is_exported_with_any_number_of_rows_and_of_classes(shape):
    @jax.jit
    def draws(data, logits):
        key = jax.random.wrap_key_data(data)
        soft, hard = (gs.gumbel_softmax(key, logits, 0.5, hard=hard) for hard in (False, True))
        return hard, gs.gumbel_max(key, logits), soft, gs.gumbel_sigmoid(key, logits)

    data = jax.random.key_data(KEY)
    symbols = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    exported = jax.export.export(draws)(data, symbols)
    for rows in (1, 5):
        logits = jax.random.normal(KEY, (rows, 7 if "classes" in shape else int(symbols.shape[1])))
        found, expected = exported.call(data, logits), draws(data, logits)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        for values in zip(found[2:], expected[2:], strict=True):
            np.testing.assert_allclose(*values, rtol=0, atol=8 * 2.0**-23)


def test_examples_may_be_divided_by_an_explicit_mesh():
    def draws(key, rows):
        return [draw(key, rows, 1.0) for draw in SAMPLERS.values()] + [gs.gumbel_max(key, rows)]

    batched = jax.vmap(draws)
    keys, rows = jax.random.split(KEY, 4), jax.random.normal(KEY, (4, 3, 5))
    expected = jax.jit(batched)(keys, rows)
    mesh = jax.make_mesh((4,), ("examples",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        divided = (jax.reshard(x, PartitionSpec("examples")) for x in (keys, rows))
        found = jax.jit(batched)(*divided)
    for values in zip(found, expected, strict=True):
        np.testing.assert_allclose(*values, rtol=0, atol=8 * 2.0**-23)


@pytest.mark.parametrize("spec", [("rows", None), (None, "rows")], ids=str)
def test_a_mesh_may_have_explicit_and_automatic_axes(spec):
    def draws(rows):
        soft, hard = (gs.gumbel_softmax(KEY, rows, hard=hard) for hard in (False, True))
        return soft, hard, gs.gumbel_max(KEY, rows), gs.gumbel_sigmoid(KEY, rows)

    rows = jax.random.normal(KEY, (4, 6))
    expected = jax.jit(draws)(rows)
    kinds = AxisType.Explicit, AxisType.Auto
    mesh = jax.make_mesh((2, 2), ("rows", "others"), axis_types=kinds)
    with jax.set_mesh(mesh):
        found = jax.jit(draws)(jax.reshard(rows, PartitionSpec(*spec)))
    for values in zip(found, expected, strict=True):
        np.testing.assert_allclose(*values, rtol=0, atol=8 * 2.0**-23)


@pytest.mark.parametrize(("dtype", "smallest"), [(jnp.float32, 2e-38), (jnp.float16, 6e-8)])
def test_the_argmax_sees_the_smallest_differences_of_its_dtype(dtype, smallest):
    logits = jnp.array([[0.0, smallest], [-smallest, 0.0], [smallest, smallest]], dtype)
    expected = [[0, 1], [0, 1], [1, 0]]
    np.testing.assert_array_equal(gs.straight_through_argmax(logits), expected)
    np.testing.assert_array_equal(jax.jit(gs.straight_through_argmax)(logits), expected)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_half_logits_are_rounded_before_they_are_sampled_compiled_or_not(dtype):
    """XLA may keep excess precision between a cast and its use: compiled, another law is drawn."""
    wide = jax.random.normal(jax.random.key(5), (2000, 5)) * 3

    def draw(wide):
        return gs.gumbel_softmax(KEY, wide.astype(dtype) + jnp.asarray(100, dtype), hard=True)

    np.testing.assert_array_equal(draw(wide), jax.jit(draw)(wide))


@every_sampler
def test_a_traced_temperature_that_is_not_positive_gives_nan_rows_and_only_these(name):
    temperature = np.array([1, 0.0, -0.0, 0.5, -1.0, np.nan, -np.inf, -1e-40])[:, None]
    is_good = (temperature > 0)[:, 0]
    run = compiled(name, jnp.float32)
    mixed, clean = run(ROWS, temperature), run(ROWS, np.where(temperature > 0, temperature, 1))
    assert np.all(np.isnan(mixed.sample[~is_good]))
    np.testing.assert_array_equal(mixed.index, clean.index)
    for found, expected in zip(mixed, clean, strict=True):
        np.testing.assert_array_equal(found[is_good], expected[is_good])


@every_sampler
@every_dtype
def test_bad_rows_are_what_is_promised_and_touch_no_other(name, dtype):
    run = compiled(name, dtype)
    clean = run(ROWS)
    logits, where = ROWS.copy(), np.ones(ROWS.shape, bool)
    logits[1] = -np.inf
    where[3] = False
    logits[5, 2] = np.nan
    logits[6], where[6, :4] = [np.nan, np.nan, np.nan, np.nan, -np.inf], False
    found = run(logits, 0.5, where)
    for row in range(8):
        for value, expected in zip(found, clean, strict=True):
            if row in (1, 3, 6):
                assert np.all(value[row] == (-1 if value is found.index else 0))
            elif row != 5:
                np.testing.assert_array_equal(value[row], expected[row])
    assert np.all(np.isnan(found.sample[5])) and found.index[5] == -1


# --- dtypes ------------------------------------------------------------------------------------


@every_sampler
@every_dtype
def test_no_temperature_promotes_the_result(name, dtype):
    def result(dtype, temperature):
        logits = jax.ShapeDtypeStruct((3, 4), dtype)
        return jax.eval_shape(lambda x: SAMPLERS[name](KEY, x, temperature), logits).dtype

    temperatures = [0.5, 1, np.float64(0.5), np.float16(0.5), np.int8(1), jnp.float32(0.5)]
    temperatures += [jnp.bfloat16(0.5), np.array([[0.5], [1.0], [2.0]])]
    with jax.enable_x64(True):
        temperatures += [jnp.float64(0.5)]
        assert result(np.float64, np.float32(0.5)) == np.float64
        assert [result(dtype, t) for t in temperatures] == [dtype] * 9
    assert [result(dtype, t) for t in temperatures[:8]] == [dtype] * 8


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan])
def test_a_row_without_a_class_stays_zero_at_a_wrong_temperature(wrong, hard):
    logits = jnp.array([[-jnp.inf] * 3, [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])

    @jax.jit
    def sample_and_gradients(logits, temperature):
        def sample(logits, temperature):
            return gs.gumbel_softmax(KEY, logits, temperature, hard=hard)

        drawn, pull_back = jax.vjp(sample, logits, temperature)
        return drawn, *pull_back(jnp.arange(9.0).reshape(3, 3))

    per_row = jnp.array([[wrong], [wrong], [0.5]])
    for found in sample_and_gradients(logits, per_row):
        assert not np.any(found[0])
        assert np.all(np.isnan(found[1]))
        assert np.all(np.isfinite(found[2]))


@pytest.mark.parametrize("given", DTYPES)
def test_the_result_has_the_dtype_asked_for_and_the_gradient_that_of_the_logits(given):
    logits = LOGITS.astype(given)
    for asked, hard in itertools.product(DTYPES, (False, True)):
        draw = functools.partial(gs.gumbel_softmax, KEY, hard=hard, dtype=asked)
        drawn, gradient = jax.eval_shape(
            lambda x, draw=draw: (draw(x), jax.grad(lambda x: draw(x).sum(dtype=jnp.float32))(x)),
            logits,
        )
        assert (drawn.dtype, gradient.dtype) == (asked, given)
    in_float32 = gs.gumbel_softmax(KEY, logits.astype(jnp.float32), 0.5)
    for asked in DTYPES:  # computed in float32 and rounded once
        drawn = gs.gumbel_softmax(KEY, logits, 0.5, dtype=asked)
        np.testing.assert_array_equal(drawn, in_float32.astype(asked))


# --- cost --------------------------------------------------------------------------------------


@every_sampler
def test_annealing_compiles_nothing_twice(name, compilations):
    def loss(logits, temperature):
        return jnp.sum(SAMPLERS[name](KEY, logits, temperature)[..., 0])

    gradient = jax.grad(loss)
    SAMPLERS[name](KEY, LOGITS, 1.0)
    gradient(LOGITS, 1.0)
    compilations()
    for temperature in (0.9, 0.5, 1e-3, 7.0):
        SAMPLERS[name](KEY, LOGITS, temperature)
        gradient(LOGITS, temperature)
    assert compilations() == 0
