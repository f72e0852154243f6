"""The samples: their bits, their edge cases and their derivatives; ``test_law.py`` has their law.

The oracle of values and derivatives is ``relaxed``, a float64 softmax in NumPy at the library's
noise, differentiated by central differences.
"""

import functools
import inspect
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import central_differences
from scipy import integrate, special, stats

import gs_modules as gs

KEY = jax.random.key(7)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
LOGITS = jnp.array([[0.5, -1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [3.0, -3.0, 1.0, 0.25]])
ROWS = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float16)
"""Exact in float32 and float16; bfloat16 rounds it once more."""


def lookup(key, logits, temperature=1.0, *, where=None):
    table = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    return gs.gumbel_lookup(key, logits, table, temperature, where=where)[0]


def top_1(key, logits, temperature=1.0, **options):
    return gs.gumbel_top_k(key, logits, 1, temperature, **options)


def among_many(draw):
    """``draw``, with more than 1,000 classes, of which the others are excluded."""

    def drawn(key, logits, temperature=1.0, *, where=None):
        num_classes = logits.shape[-1]
        positions = np.arange(num_classes) * (1003 // num_classes)
        shape = (*logits.shape[:-1], 1003)
        if where is not None:
            where = jnp.broadcast_to(where, logits.shape)
            where = jnp.ones(shape, bool).at[..., positions].set(where)
        spread = jnp.full(shape, -jnp.inf, logits.dtype).at[..., positions].set(logits)
        return draw(key, spread, temperature, where=where)[..., positions]

    return drawn


reinmax = jax.jit(gs.ReinMax(), static_argnames="axis")
"""Jitted, so that the temperature is traced and one below 1 is not refused."""

SAMPLERS = {
    "soft": gs.gumbel_softmax,
    "hard": functools.partial(gs.gumbel_softmax, hard=True),
    "argmax": lambda key, *args, **options: gs.straight_through_argmax(*args, **options),
    "straight_through": gs.StraightThrough(),
    "decoupled": gs.DecoupledStraightThrough(backward_temperature=0.8),
    "soft_decoupled": gs.DecoupledStraightThrough(backward_temperature=0.8, hard=False),
    "gumbel_rao": gs.GumbelRao(num_samples=2),
    "gapped": gs.GappedStraightThrough(),
    "reinmax": lambda key, logits, temperature=1.0, **options: reinmax(
        key, logits, temperature, **options
    ),
    "top_1": top_1,
    "hard_top_1": functools.partial(top_1, hard=True),
    "lookup": lookup,
    "hard_among_many": among_many(functools.partial(gs.gumbel_softmax, hard=True)),
    "gumbel_rao_among_many": among_many(gs.GumbelRao(num_samples=2)),
}
"""Whatever gives a sample of one class per row, relaxed or one-hot."""

AT_NOISE = ["soft", "hard", "top_1", "hard_top_1", "lookup"]
WITHOUT_NOISE = ["argmax", "straight_through"]
"""What is differentiated: the relaxed sample or the softmax; others are in test_estimators.py."""

samplers = pytest.mark.parametrize("name", SAMPLERS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def relaxed(logits, noise, temperature, where=True, axis=-1):
    """The relaxation in float64 NumPy; excluded classes have weight 0."""
    scores = (np.where(where, logits, -np.inf) + noise) / temperature
    weights = np.exp(scores - scores.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


@functools.cache
def compiled(name, dtype):
    """One program for many tests: a sampler of [8, 5] logits, its derivatives and the index."""

    @jax.jit
    def everything(logits, temperature, where, cotangent, tangent):
        logits, cotangent, tangent = (x.astype(dtype) for x in (logits, cotangent, tangent))
        draw = functools.partial(SAMPLERS[name], KEY, where=where)
        drawn, pull_back = jax.vjp(draw, logits, temperature)
        push = jax.jvp(draw, (logits, temperature), (tangent, jnp.ones_like(temperature)))[1]
        return drawn, *pull_back(cotangent), push, gs.gumbel_max(KEY, logits, where=where)

    def run(logits, temperature=0.5, where=True, cotangent=None, tangent=None):
        assert np.shape(logits) == (8, 5)
        weights = np.arange(5.0) - 1.5
        results = everything(
            jnp.asarray(logits, jnp.float32),
            jnp.asarray(np.broadcast_to(temperature, (8, 1)), jnp.float32),
            jnp.asarray(np.broadcast_to(where, (8, 5))),
            *(
                jnp.asarray(np.broadcast_to(weights if x is None else x, (8, 5)), jnp.float32)
                for x in (cotangent, tangent)
            ),
        )
        return Drawn(*map(np.asarray, results))

    return run


class Drawn(NamedTuple):
    """What ``compiled`` gives: the sample, vjp, jvp (with temperature tangent 1) and the index."""

    sample: np.ndarray
    to_logits: np.ndarray
    to_temperature: np.ndarray
    forward: np.ndarray
    index: np.ndarray


def assert_one_hot(sample, dtype):
    sample = np.asarray(sample)
    assert sample.dtype == dtype
    assert np.all((sample == 0) | (sample == 1)) and not np.any(np.signbit(sample))
    np.testing.assert_array_equal(sample.astype(np.float32).sum(-1), 1)


# --- one index, one-hot bits -------------------------------------------------------------------


@dtypes
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


@samplers
@dtypes
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


@samplers
@dtypes
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


@samplers
def test_a_traced_temperature_that_is_not_positive_gives_nan_rows_and_only_these(name):
    temperature = np.array([1, 0.0, -0.0, 0.5, -1.0, np.nan, -np.inf, -1e-40])[:, None]
    is_good = (temperature > 0)[:, 0]
    run = compiled(name, jnp.float32)
    mixed, clean = run(ROWS, temperature), run(ROWS, np.where(temperature > 0, temperature, 1))
    assert np.all(np.isnan(mixed.sample[~is_good]))
    np.testing.assert_array_equal(mixed.index, clean.index)
    for found, expected in zip(mixed, clean, strict=True):
        np.testing.assert_array_equal(found[is_good], expected[is_good])


@samplers
@dtypes
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


# --- refusals ----------------------------------------------------------------------------------

ESTIMATORS = {
    cls.__name__: cls(0.8) if cls is gs.DecoupledStraightThrough else cls()
    for cls in gs.ESTIMATORS.values()
}
FUNCTIONS = ESTIMATORS | {
    name: value
    for name in gs.__all__
    if inspect.isfunction(value := getattr(gs, name))
    and "logits" in inspect.signature(value).parameters
    and not name.endswith("_output")  # of a call whose logits were checked
}
"""Everything public that takes logits."""


def call(function, **given):
    shape = np.shape(given.get("logits", LOGITS)) if _is_regular(given) else LOGITS.shape
    others = {
        "key": KEY,
        "logits": LOGITS,
        "temperature": 1.0,
        "estimator": gs.StraightThroughGumbel(),
        "table": jnp.zeros((*shape[-1:], 2)),
        "k": 1,
        "index": jnp.zeros(shape[:-1], int),
        "log_sample": jnp.zeros(shape),
        "log_odds": jnp.zeros(shape),
    }
    parameters = inspect.signature(function).parameters
    required = {name: others[name] for name, p in parameters.items() if p.default is p.empty}
    return function(**required | given)


def _is_regular(given):
    return hasattr(given.get("logits", LOGITS), "shape")  # not text, not a ragged list


REFUSED = {
    "integer logits": ({"logits": jnp.zeros((2, 3), int)}, TypeError, "logits"),
    "boolean logits": ({"logits": jnp.zeros((2, 3), bool)}, TypeError, "logits"),
    "complex logits": ({"logits": jnp.zeros((2, 3), complex)}, TypeError, "logits"),
    "logits of 8 bits": ({"logits": LOGITS.astype("float8_e4m3fn")}, TypeError, "16 to 64 bits"),
    "text": ({"logits": "abc"}, TypeError, "logits"),
    "ragged logits": ({"logits": [[1.0], [1.0, 2.0]]}, TypeError, "logits"),
    "no category": ({"logits": jnp.zeros((2, 0))}, ValueError, r"logits.*\(2, 0\)"),
    "a scalar": ({"logits": 1.0}, ValueError, "axis -1"),
    "large axis": ({"axis": 2}, ValueError, "axis 2"),
    "small axis": ({"axis": -3}, ValueError, "axis -3"),
    "float axis": ({"axis": 1.0}, TypeError, "axis"),
    "integer where": ({"where": jnp.ones((3, 4), int)}, TypeError, "where"),
    "text as where": ({"where": "abc"}, TypeError, "where"),
    "narrow where": ({"where": jnp.ones((3, 3), bool)}, ValueError, "where.*(3, 3)"),
    "where of higher rank": ({"where": jnp.ones((1, 3, 4), bool)}, ValueError, "where"),
    "zero": ({"temperature": 0.0}, ValueError, "temperature.*0.0"),
    "negative": ({"temperature": -1}, ValueError, "temperature.*-1"),
    "NaN": ({"temperature": float("nan")}, ValueError, "temperature.*nan"),
    "infinity": ({"temperature": jnp.inf}, ValueError, "temperature.*inf"),
    "underflow": ({"temperature": 1e-50}, ValueError, "temperature.*1e-50"),
    "one zero": ({"temperature": jnp.array([[1.0], [0.0], [1.0]])}, ValueError, "temperature"),
    "boolean": ({"temperature": True}, TypeError, "temperature"),
    "complex": ({"temperature": 1j}, TypeError, "temperature"),
    "number as text": ({"temperature": "1"}, TypeError, "temperature"),
    "too large": ({"temperature": 10**400}, (TypeError, ValueError), "temperature"),
    "per class": ({"temperature": jnp.ones((3, 4))}, ValueError, r"temperature.*\(3, 1\)"),
    "flat per row": ({"temperature": jnp.ones(3)}, ValueError, r"temperature.*\(3, 1\)"),
    "of higher rank": ({"temperature": jnp.ones((1, 3, 1))}, ValueError, "temperature"),
    "integer dtype": ({"dtype": jnp.int32}, TypeError, "dtype"),
    "complex dtype": ({"dtype": jnp.complex64}, TypeError, "dtype"),
    "unknown dtype": ({"dtype": "float33"}, TypeError, "dtype"),
    "hard as a number": ({"hard": 1}, TypeError, "hard"),
    "prior": ({"prior_logits": jnp.zeros(4, int)}, TypeError, "prior_logits"),
    "narrow prior": ({"prior_logits": jnp.zeros(3)}, ValueError, "prior_logits"),
    "k of zero": ({"k": 0}, ValueError, r"k must be in 1 \.\. 4.*got 0"),
    "large k": ({"k": 5}, ValueError, r"k must be in 1 \.\. 4.*got 5"),
    "float k": ({"k": 2.0}, TypeError, "k must be an integer"),
    "boolean k": ({"k": True}, TypeError, "k must be an integer"),
    "integer table": ({"table": jnp.zeros((4, 2), int)}, TypeError, "table"),
    "short table": ({"table": jnp.zeros((3, 2))}, ValueError, r"table of shape \(3, 2\).*4"),
    "scalar table": ({"table": 1.0}, ValueError, "table"),
    "float index": ({"index": jnp.zeros(3)}, TypeError, "index"),
    "index of logits": ({"index": jnp.zeros((3, 4), int)}, ValueError, r"index.*\(3,\)"),
    "integer sample": ({"log_sample": jnp.zeros((3, 4), int)}, TypeError, "log_sample"),
    "narrow sample": ({"log_sample": jnp.zeros(4)}, ValueError, "log_sample"),
    "narrow odds": ({"log_odds": jnp.zeros(4)}, ValueError, "log_odds"),
}
OF_A_ROW = {"no category", "a scalar", "per class", "flat per row"}
BY_ELEMENT = {"gumbel_sigmoid", "gumbel_log_odds", "relaxed_bernoulli_log_prob"}
"""Functions without a row, and what they have no reason to refuse."""
CASES = [
    pytest.param(function, *case, id=f"{name}-{refused}")
    for name, function in FUNCTIONS.items()
    for refused, case in REFUSED.items()
    if set(case[0]) <= set(inspect.signature(function).parameters)
    and not (name in BY_ELEMENT and refused in OF_A_ROW)
]


@pytest.mark.parametrize(("function", "given", "error", "match"), CASES)
def test_bad_arguments_are_refused_by_name(function, given, error, match):
    with pytest.raises(error, match=match):
        call(function, **given)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_rows_are_no_error(name):
    rows = jax.ShapeDtypeStruct((0, 3), jnp.float32)
    results = jax.eval_shape(lambda rows: call(FUNCTIONS[name], logits=rows), rows)
    assert all(0 in result.shape for result in jax.tree.leaves(results))


OF_A_KEY = {
    name: function
    for name in gs.__all__
    if inspect.isfunction(function := getattr(gs, name))
    and next(iter(inspect.signature(function).parameters), None) == "key"
    and name != "check_key"  # which draws nothing
} | {cls.__name__: cls() for cls in (gs.Pathwise, gs.ReinMax, gs.StraightThroughArgmax)}


@pytest.mark.parametrize("name", OF_A_KEY)
def test_what_is_no_single_key_is_refused_by_name(name):
    more = {"gumbel_lookup": (jnp.eye(3),), "gumbel_noise": (), "gumbel_top_k": (2,)}
    arguments = (jnp.zeros((4, 3)), *more.get(name, () if name == "gumbel_max" else (1.0,)))
    if name == "gumbel_noise":
        arguments = ((4, 3),)
    of_a_wrong_length = jnp.zeros(3, jnp.uint32)
    for key in (0, None, jnp.zeros((4, 3)), jnp.zeros(2, jnp.int32), of_a_wrong_length, "0"):
        with pytest.raises(TypeError, match=r"^key must be a random key.*jax\.random\.key\(0\)"):
            OF_A_KEY[name](key, *arguments)
    with pytest.raises(TypeError, match=r"key must be a single key, got an array of \(3,\)"):
        OF_A_KEY[name](jax.random.split(KEY, 3), *arguments)
    old_style = jax.random.key_data(KEY)
    for key in (old_style, np.asarray(old_style)):
        for drawn in zip(
            *(jax.tree.leaves(OF_A_KEY[name](k, *arguments)) for k in (key, KEY)), strict=True
        ):
            np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() & OF_A_KEY.keys() - BY_ELEMENT))
def test_xla_does_not_reduce_constant_logits_while_it_compiles(name):
    """For 4,096 x 320 of them it took two seconds. An array as argument needs no such care."""

    def draw(key, logits):
        return call(FUNCTIONS[name], key=key, logits=logits)

    constant = jax.jit(functools.partial(draw, logits=LOGITS))
    assert "optimization_barrier" in constant.lower(KEY).as_text()
    program = jax.jit(draw).lower(KEY, LOGITS).as_text()
    assert program.count("optimization_barrier") == 0
    np.testing.assert_array_equal(
        *(jax.tree.leaves(drawn)[0] for drawn in (constant(KEY), jax.jit(draw)(KEY, LOGITS)))
    )


def test_a_forgotten_key_is_named():
    with pytest.raises(TypeError, match="key must be a random key"):
        gs.gumbel_softmax(jnp.zeros((4, 3)), 0.5)


def test_a_traced_flag_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"hard.*static_arg"):
        jax.jit(lambda hard: gs.gumbel_softmax(KEY, LOGITS, hard=hard))(True)


# --- dtypes ------------------------------------------------------------------------------------


@samplers
@dtypes
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


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("harder", [False, True], ids=["plain", "masked_per_row"])
def test_values_and_gradients_are_those_of_the_relaxation(axis, harder):
    random = np.random.default_rng(0)
    logits, weights = random.normal(size=(2, 2, 3, 4))
    temperature, where = np.array(0.7), np.ones((2, 3, 4), bool)
    if harder:
        temperature = random.uniform(0.3, 2.0, (2, 3, 4)).mean(axis, keepdims=True)
        where = random.uniform(size=(2, 3, 4)) > 0.3
        where |= ~where.any(axis, keepdims=True)

    @jax.jit
    def library(logits, temperature, weights):
        def one(sample):
            draw = functools.partial(sample, KEY, axis=axis, where=where if harder else None)
            drawn, pull_back = jax.vjp(draw, logits, temperature)
            return drawn, *pull_back(weights.astype(drawn.dtype))

        return {name: one(SAMPLERS[name]) for name in AT_NOISE[:-1] + WITHOUT_NOISE}

    with jax.enable_x64(True):
        noise = np.asarray(gs.gumbel_noise(KEY, logits.shape, jnp.float64))
        if logits.shape[axis] == 2:  # only their difference counts, and is drawn at once
            odds = gs.gumbel_log_odds(
                KEY, jnp.zeros_like(jnp.take(logits, jnp.arange(1), axis)), 1.0
            )
            noise = np.concatenate([odds, 0 * odds], axis)
        found = library(logits, temperature, weights)
    np.testing.assert_allclose(
        found["soft"][0], relaxed(logits, noise, temperature, where, axis), rtol=1e-12
    )
    for name in found:
        noise_of_derivative = noise if name in AT_NOISE else 0 * noise

        def loss(logits, temperature, noise=noise_of_derivative):
            return np.sum(weights * relaxed(logits, noise, temperature, where, axis))

        expected = [
            central_differences(lambda x: loss(x, temperature), logits),
            central_differences(lambda x: loss(logits, x), temperature),
        ]
        for gradient, value in zip(found[name][1:], expected, strict=True):
            np.testing.assert_allclose(gradient, value, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("name", AT_NOISE + WITHOUT_NOISE)
@dtypes
def test_gradients_in_each_dtype_are_the_float64_ones_rounded(name, dtype):
    logits = np.asarray(jnp.asarray(ROWS, dtype), np.float64)
    noise = np.asarray(gs.gumbel_noise(KEY, (8, 5)), np.float64)
    noise = noise if name in AT_NOISE else 0 * noise
    weights, per_row = np.arange(5.0) - 1.5, np.full((8, 1), 0.5)
    found = compiled(name, dtype)(logits)
    epsilon = float(jnp.finfo(dtype).eps)
    for gradient, expected in [
        (
            found.to_logits,
            central_differences(lambda x: np.sum(weights * relaxed(x, noise, 0.5)), logits),
        ),
        (
            found.to_temperature,
            central_differences(lambda t: np.sum(weights * relaxed(logits, noise, t)), per_row),
        ),
    ]:
        # 8 units of 1, scaled by the cotangent and the temperature
        np.testing.assert_allclose(
            gradient.astype(np.float64), expected, rtol=4 * epsilon, atol=8 * 2.0**-23 * 2.5 / 0.5
        )


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_the_hessian_is_that_of_the_relaxation_and_symmetric(hard):
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])
    with jax.enable_x64(True):
        noise = gs.gumbel_noise(KEY, (4,), jnp.float64)

        def library(x):
            drawn = gs.gumbel_softmax(KEY, x[:4], x[4], hard=hard)
            return jnp.sum(weights.astype(x.dtype) * drawn)

        def formula(x):
            return jnp.sum(weights.astype(x.dtype) * jax.nn.softmax((x[:4] + noise) / x[4]))

        x = jnp.array([0.3, -0.7, 1.1, 0.0, 0.6], jnp.float64)
        found, expected = (jax.jit(jax.hessian(f))(x) for f in (library, formula))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-11)


TWICE = {
    **SAMPLERS,
    "top_2": functools.partial(gs.gumbel_top_k, k=2),
    "hard_top_2": functools.partial(gs.gumbel_top_k, k=2, hard=True),
    "sigmoid": gs.gumbel_sigmoid,
    "hard_sigmoid": functools.partial(gs.gumbel_sigmoid, hard=True),
}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_of_a_loss_follow_the_chain_rule(name, classes):
    """Those of ``sum(sin(S))``, by first derivatives of S and second ones of what is linear in S.

    A rule that forgets that its own value has a derivative passes every test of a linear loss.
    """

    def sample(x):
        return TWICE[name](KEY, x[:-1], temperature=x[-1])

    @jax.jit
    def both(x):
        drawn, slope = sample(x), jax.jacfwd(sample)(x)
        found = jax.hessian(lambda x: jnp.sum(jnp.sin(sample(x))))(x)
        linear = jax.hessian(lambda x: jnp.sum(jnp.cos(drawn) * sample(x)))(x)
        return found, linear - slope.T @ (jnp.sin(drawn)[:, None] * slope)

    found, expected = both(jnp.array([0.3, -0.7, 1.1, 0.0, 1.2])[-1 - classes :])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def every_loss(key, row, temperature):
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])
    losses = [jnp.sum(weights * draw(key, row, temperature)) for draw in SAMPLERS.values()]
    return jnp.stack(losses)


def test_second_derivatives_are_finite_for_temperatures_from_1e_18():
    row = jnp.array([0.3, -np.inf, 1.1, 0.0])
    hessian = jax.jit(jax.hessian(functools.partial(every_loss, KEY), (0, 1)))
    for temperature in (1e-18, 1e-3, 1.0, 1e18):
        for block in jax.tree.leaves(hessian(row, jnp.float32(temperature))):
            assert np.all(np.isfinite(block))


def test_transformations_change_no_value_and_no_gradient():
    keys = jax.random.split(KEY, 3)

    def with_gradient(loss, mode=jax.jacrev):
        return jax.jit(lambda *x: (loss(*x), mode(loss, (1, 2))(*x)))

    rows = [(key, row, 0.5) for key, row in zip(keys, LOGITS, strict=True)]
    plain = with_gradient(every_loss)
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *(plain(*row) for row in rows))
    batched = (keys, LOGITS, jnp.full(3, 0.5))
    results = {
        "vmap": jax.vmap(plain)(*batched),
        "remat": jax.vmap(with_gradient(jax.checkpoint(every_loss)))(*batched),
        "forward": jax.vmap(with_gradient(every_loss, jax.jacfwd))(*batched),
        "scan": jax.lax.scan(lambda _, row: (None, plain(*row)), None, batched)[1],
    }
    tolerance = 8 * 2.0**-23 * 3 / 0.5  # 8 units of 1, scaled by the cotangent and the temperature
    for name, result in results.items():
        for found, value in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, value, rtol=0, atol=tolerance, err_msg=name)


def test_the_closed_forms_of_two_classes():
    """``y0 = sigmoid((0.3 + logistic noise) / T)``: its mean and the derivatives of the mean."""

    def expectation(function):
        return integrate.quad(lambda z: function(z) * stats.logistic.pdf(z), -60, 60)[0]

    def slope(z):
        return special.expit(0.3 + z) * special.expit(-0.3 - z)

    values = [
        expectation(lambda z: special.expit(0.3 + z)),
        expectation(slope),
        expectation(lambda z: -(0.3 + z) * slope(z)),
    ]
    np.testing.assert_allclose(values, [0.5498504807, 0.165174669, -0.0247762], atol=5e-8)
    rows = jnp.broadcast_to(jnp.array([0.3, 0.0]), (10**6, 2))

    @jax.jit
    def draws(rows):
        def first(rows, temperature):
            return gs.gumbel_softmax(KEY, rows, temperature)[:, 0]

        tangent = jnp.zeros_like(rows).at[:, 0].set(1)
        value, by_logit = jax.jvp(lambda rows: first(rows, 1.0), (rows,), (tangent,))
        by_temperature = jax.jvp(lambda t: first(rows, t), (1.0,), (1.0,))[1]
        return jnp.stack([value, by_logit, by_temperature])

    found = np.asarray(draws(rows), np.float64)
    standard_errors = found.std(1) / 1e3
    assert np.all(np.abs(found.mean(1) - values) < 5 * standard_errors)


# --- cost --------------------------------------------------------------------------------------


@samplers
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


# --- log_weights -------------------------------------------------------------------------------


@dtypes
def test_log_weights_are_logarithms_with_a_finite_derivative_at_zero(dtype):
    weights = jnp.asarray([0.25, 0.0, 4.0, np.inf], dtype)
    value, pull_back = jax.vjp(gs.log_weights, weights)
    assert value.dtype == dtype
    with np.errstate(divide="ignore"):
        expected = np.log(np.asarray(weights, np.float32))
    np.testing.assert_allclose(np.asarray(value, np.float32), expected, rtol=1e-2)
    np.testing.assert_array_equal(pull_back(jnp.ones_like(weights))[0], [4.0, 0.0, 0.25, 0.0])


def test_a_class_of_weight_zero_is_excluded_and_the_others_train():
    def loss(weights):
        return jnp.sum(jnp.arange(3.0) * gs.gumbel_softmax(KEY, gs.log_weights(weights), 0.5))

    gradient = jax.grad(loss)(jnp.array([0.25, 0.0, 4.0]))
    assert gradient[1] == 0 and np.all(np.isfinite(gradient)) and gradient[0] != 0


@pytest.mark.parametrize(
    ("weights", "error"), [(jnp.array([1.0, -0.5]), ValueError), (jnp.array([1, 2]), TypeError)]
)
def test_negative_and_integer_weights_are_refused(weights, error):
    with pytest.raises(error, match="weights"):
        gs.log_weights(weights)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_backward_pass_keeps_the_relaxed_sample_alone(hard, dtype):
    logits = jnp.zeros((64, 32), dtype)

    def sample(logits, temperature):
        return gs.gumbel_softmax(jax.random.key(0), logits, temperature, hard=hard)

    _, backward = jax.vjp(sample, logits, jnp.float32(0.5))
    kept = [leaf.nbytes for leaf in jax.tree.leaves(backward) if isinstance(leaf, jax.Array)]
    assert 4 * logits.size <= sum(kept) <= 4 * logits.size + 64


@pytest.mark.parametrize("temperature", [-1.0, 0, float("nan"), np.float32(np.inf)], ids=repr)
def test_a_concrete_temperature_is_refused_while_tracing_too(temperature):
    with pytest.raises(ValueError, match="temperature"):
        jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, temperature))(LOGITS)
    with pytest.raises(ValueError, match=r"ReinMax must be at least 1, got 0\.5"):
        jax.jit(lambda logits: gs.ReinMax()(KEY, logits, 0.5))(LOGITS)
