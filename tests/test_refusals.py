"""Bad arguments of whatever takes logits: refused by name, before anything is computed."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import KEY, LOGITS

import gs_modules as gs

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


@pytest.mark.parametrize("temperature", [-1.0, 0, float("nan"), np.float32(np.inf)], ids=repr)
def test_a_concrete_temperature_is_refused_while_tracing_too(temperature):
    with pytest.raises(ValueError, match="temperature"):
        jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, temperature))(LOGITS)
    with pytest.raises(ValueError, match=r"ReinMax must be at least 1, got 0\.5"):
        jax.jit(lambda logits: gs.ReinMax()(KEY, logits, 0.5))(LOGITS)
