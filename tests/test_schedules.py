"""Schedules against their formulas in float64, at their ends bitwise, and as values."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gs_modules as gs

LAST = 2**31 - 1


def linear(start, end, steps):
    return lambda t: (start * np.maximum(steps - t, 0) + end * np.minimum(t, steps)) / steps


def exponential(start, end, rate, every=1):
    return lambda t: np.maximum(end, start * np.exp(-rate * (t // every * every)))


def cosine(start, end, steps):
    # 1 - cos(x) as 2 sin(x / 2)**2: the formula itself has no precision near its end
    def formula(t):
        weight = np.sin(np.pi * (steps - np.minimum(t, steps)) / (2 * steps)) ** 2
        return end + (start - end) * weight

    return formula


def piecewise(values, boundaries):
    return lambda t: np.asarray(values)[np.sum([t >= b for b in [0, *boundaries]], 0) - 1]


def cyclic(start, end, period):
    return lambda t: linear(start, end, period - 1)(t % period)


FORMULAS = [
    (gs.Constant(0.7), lambda t: np.full(np.shape(t), 0.7)),
    (gs.Linear(1.0, 0.1, 1000), linear(1.0, 0.1, 1000)),
    (gs.Linear(0.1, 1.0, 7), linear(0.1, 1.0, 7)),
    (gs.Linear(1.0, 1e-30, LAST), linear(1.0, 1e-30, LAST)),
    (gs.Linear(1e-37, 3e38, LAST - 1), linear(1e-37, 3e38, LAST - 1)),
    (gs.Linear(0.3, 0.3, 3), linear(0.3, 0.3, 3)),
    (gs.Exponential(1.0, 0.5, rate=1e-4, every=500), exponential(1.0, 0.5, 1e-4, 500)),
    (gs.Exponential(1.0, 1e-30, rate=1e-8), exponential(1.0, 1e-30, 1e-8)),
    (gs.Exponential(3.0, 0.1, rate=1.0, every=LAST), exponential(3.0, 0.1, 1.0, LAST)),
    (gs.Exponential(0.1, 0.1, rate=1e38), exponential(0.1, 0.1, 1e38)),
    (gs.Exponential(1e38, 1e-37, rate=1e-7, every=3), exponential(1e38, 1e-37, 1e-7, 3)),
    (gs.Cosine(1.0, 0.1, 1000), cosine(1.0, 0.1, 1000)),
    (gs.Cosine(1.0, 1e-12, 10**6), cosine(1.0, 1e-12, 10**6)),
    (gs.Cosine(0.2, 5.0, LAST), cosine(0.2, 5.0, LAST)),
    (gs.Piecewise([1.0], []), piecewise([1.0], [])),
    (gs.Piecewise([1.0, 0.5, 2.0], [10, LAST]), piecewise([1.0, 0.5, 2.0], [10, LAST])),
    (gs.Cyclic(1.0, 0.2, 100), cyclic(1.0, 0.2, 100)),
    (gs.Cyclic(1.0, 0.2, 2), cyclic(1.0, 0.2, 2)),
    (gs.Cyclic(1.0, 0.2, LAST), cyclic(1.0, 0.2, LAST)),
]
every_schedule = pytest.mark.parametrize(
    ("schedule", "formula"), FORMULAS, ids=[str(schedule) for schedule, _ in FORMULAS]
)

RANDOM = np.random.default_rng(0)
STEPS = np.unique(
    np.concatenate(
        [
            np.arange(2100),
            np.exp(RANDOM.uniform(0, np.log(LAST), 2000)).astype(np.int64),
            np.arange(10**6 - 3, 10**6 + 3),
            np.arange(LAST - 5, LAST + 1),
        ]
    )
)


def bits(value):
    return np.asarray(value, np.float32).view(np.int32)


def test_every_schedule_has_a_formula_and_a_name():
    assert {type(schedule) for schedule, _ in FORMULAS} == set(gs.SCHEDULES.values())
    assert [cls.__name__.lower() for cls in gs.SCHEDULES.values()] == list(gs.SCHEDULES)


@every_schedule
def test_values_agree_with_float64_at_every_scale_of_steps(schedule, formula):
    expected = formula(STEPS.astype(np.float64))
    exponent = getattr(schedule, "rate", 0.0) * STEPS
    tolerance = 1e-6 * np.maximum(1, exponent) * expected
    steps = jnp.asarray(STEPS, jnp.int32)
    eager, compiled = schedule(steps), jax.jit(schedule)(steps)
    for found in (eager, compiled, jax.vmap(schedule)(steps)):
        assert found.dtype == jnp.float32 and found.shape == STEPS.shape
        assert np.all(np.abs(np.asarray(found, np.float64) - expected) <= tolerance)


@every_schedule
def test_values_never_leave_the_ends(schedule, formula):
    del formula
    ends = [schedule.values] if hasattr(schedule, "values") else []
    ends += [
        getattr(schedule, name) for name in ("value", "start", "end") if hasattr(schedule, name)
    ]
    values = np.asarray(schedule(jnp.asarray(STEPS, jnp.int32)))
    assert values.min() >= np.float32(np.min(np.hstack(ends)))
    assert values.max() <= np.float32(np.max(np.hstack(ends)))


def at(schedule, step):
    """The bits of the value, eager and compiled alike."""
    eager, compiled = bits(schedule(step)), bits(jax.jit(schedule)(step))
    assert eager == compiled
    return eager


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.1), (0.1, 0.7), (1 / 3, 1e-30), (3e38, 1e-37)])
def test_ends_are_bitwise_the_options(start, end):
    for steps in (1, 3, 10**6, LAST):
        for schedule in (gs.Linear(start, end, steps), gs.Cosine(start, end, steps)):
            assert at(schedule, 0) == bits(start)
            assert at(schedule, steps) == at(schedule, LAST) == bits(end)
    if start > end:
        schedule = gs.Exponential(start, end, rate=0.5)
        assert at(schedule, 0) == bits(start) and at(schedule, 10**6) == bits(end)
        for period in (2, 3, 1000, LAST):
            schedule = gs.Cyclic(start, end, period)
            assert at(schedule, 0) == bits(start) and at(schedule, period - 1) == bits(end)
            if period < LAST:
                assert at(schedule, period) == bits(start)


def test_piecewise_takes_the_new_value_at_its_boundary():
    schedule = gs.Piecewise((1.0, 1 / 3, 0.1), (5, 6))
    assert [at(schedule, step) for step in (0, 4, 5, 6, LAST)] == [
        bits(value) for value in (1.0, 1.0, 1 / 3, 0.1, 0.1)
    ]


def test_exponential_is_that_of_jang_et_al():
    schedule = gs.Exponential(1.0, 0.5, rate=1e-5, every=1000)
    assert at(schedule, 999) == bits(1.0)
    np.testing.assert_allclose(schedule(1999), math.exp(-1e-2), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda step: step,
        np.int64,
        np.uint8,
        lambda step: np.array(step, np.uint64),
        jnp.uint32,
        jnp.int8,
        jnp.int32,
    ],
)
def test_every_integer_is_a_step(make):
    schedule = gs.Linear(1.0, 0.5, 200)
    assert bits(schedule(make(100))) == bits(0.75)
    assert bits(jax.jit(schedule)(make(100))) == bits(0.75)


@pytest.mark.parametrize(
    "step",
    [
        LAST,
        2**31,
        2**70,
        np.int64(2**40),
        np.array(2**31),
        np.array(2**63, np.uint64),
        jnp.uint32(2**32 - 1),
    ],
    ids=repr,
)
def test_steps_saturate_and_never_wrap(step):
    assert gs.as_step(step) == LAST and gs.next_step(step) == LAST
    assert gs.next_step(step).dtype == jnp.int32
    assert bits(gs.Linear(1.0, 0.5, 10)(step)) == bits(0.5)


def test_steps_saturate_inside_arrays_and_under_x64():
    np.testing.assert_array_equal(gs.as_step(np.array([5, 2**31 + 5, -7])), [5, LAST, 0])
    with jax.enable_x64(True):
        steps = jnp.array([5, 2**31 + 5, -7])
        for found in (gs.next_step(steps), jax.jit(gs.next_step)(steps)):
            assert found.dtype == jnp.int32
            np.testing.assert_array_equal(found, [6, LAST, 1])
        for schedule, _ in FORMULAS:
            assert jax.eval_shape(schedule, steps).dtype == jnp.float32


@pytest.mark.parametrize("step", [-1, np.int64(-5), jnp.int8(-3), -(2**40), -(2**70)], ids=repr)
def test_a_step_before_the_first_is_the_first(step):
    assert gs.as_step(step) == 0 and gs.next_step(step) == 1


@pytest.mark.parametrize("step", [1.0, True, np.float32(2), jnp.bool_(True), None, "1", [1, 2]])
def test_other_steps_are_refused_by_name(step):
    for function in (gs.as_step, gs.next_step, gs.Linear(1.0, 0.5, 10)):
        with pytest.raises(TypeError, match="step"):
            function(step)


BAD_TEMPERATURES = [0, 0.0, -1.0, math.nan, math.inf, 1e-46, 1e39, 3.41e38, 10**400, 1j, None, "1"]
BAD_TEMPERATURES += [True, np.bool_(True), [1.0]]
BAD_COUNTS = [0, -1, 2**31, 1.0, "1", None, True]


@pytest.mark.parametrize(
    "value", [np.float16(0.5), np.asarray(0.5, jnp.bfloat16)[()], jnp.bfloat16(0.5), np.array(0.5)]
)
def test_numbers_of_any_kind_are_kept_as_floats(value):
    for kept in (gs.Constant(value).value, gs.GappedStraightThrough(value).gap):
        assert type(kept) is float and kept == 0.5
    assert gs.check_gate(4, 1, gs.StraightThroughGumbel(), value) == (4, 1, 0.5)


@pytest.mark.parametrize("bad", BAD_TEMPERATURES, ids=str)
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("Constant value", gs.Constant),
        ("Linear start", lambda bad: gs.Linear(bad, 1.0, 10)),
        ("Linear end", lambda bad: gs.Linear(1.0, bad, 10)),
        ("Exponential start", lambda bad: gs.Exponential(bad, 0.1, 0.1)),
        ("Exponential end", lambda bad: gs.Exponential(1.0, bad, 0.1)),
        ("Exponential rate", lambda bad: gs.Exponential(1.0, 0.1, bad)),
        ("Cosine start", lambda bad: gs.Cosine(bad, 1.0, 10)),
        ("Cosine end", lambda bad: gs.Cosine(1.0, bad, 10)),
        ("Piecewise values", lambda bad: gs.Piecewise([1.0, bad], [10])),
        ("Cyclic start", lambda bad: gs.Cyclic(bad, 0.1, 10)),
        ("Cyclic end", lambda bad: gs.Cyclic(1.0, bad, 10)),
    ],
)
def test_options_that_are_not_positive_numbers_are_refused_by_name(name, build, bad):
    with pytest.raises((TypeError, ValueError), match=name):
        build(bad)


@pytest.mark.parametrize("bad", BAD_COUNTS, ids=str)
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("Linear steps", lambda bad: gs.Linear(1.0, 0.5, bad)),
        ("Exponential every", lambda bad: gs.Exponential(1.0, 0.5, 0.1, bad)),
        ("Cosine steps", lambda bad: gs.Cosine(1.0, 0.5, bad)),
        ("Piecewise boundaries", lambda bad: gs.Piecewise([1.0, 0.5], [bad])),
        ("Cyclic period", lambda bad: gs.Cyclic(1.0, 0.5, bad)),
    ],
)
def test_options_that_are_not_counts_are_refused_by_name(name, build, bad):
    with pytest.raises((TypeError, ValueError), match=name):
        build(bad)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: gs.Exponential(0.1, 1.0, 0.1), "start must be at least end"),
        (lambda: gs.Cyclic(0.1, 1.0, 10), "falls from start to end"),
        (lambda: gs.Cyclic(1.0, 0.1, 1), "period"),
        (lambda: gs.Piecewise([1.0, 0.5], []), "one value more"),
        (lambda: gs.Piecewise([], []), "one value more"),
        (lambda: gs.Piecewise([1.0, 0.5, 0.1], [5, 5]), "rise strictly"),
    ],
)
def test_impossible_schedules_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()


@every_schedule
def test_schedules_are_frozen_hashable_equal_values(schedule, formula):
    del formula
    options = dataclasses.asdict(schedule)
    as_lists = {
        k: list(v) if isinstance(v, tuple) else np.asarray(v)[()] for k, v in options.items()
    }
    same = type(schedule)(**as_lists)
    assert same == schedule and hash(same) == hash(schedule)
    assert [other == schedule for other, _ in FORMULAS].count(True) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.anything = 1


def test_an_integer_option_equals_the_same_float():
    assert gs.Linear(1, 2, 3) == gs.Linear(1.0, np.float32(2), np.int64(3))
    assert hash(gs.Linear(1, 2, 3)) == hash(gs.Linear(1.0, 2.0, 3))


@pytest.mark.parametrize("schedule", [optax.cosine_decay_schedule(1.0, 10, 0.1), lambda step: 0.5])
def test_any_callable_of_a_step_is_a_schedule(schedule):
    assert gs.check_temperature(schedule) is schedule
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by the integer step
        temperature = gs.resolve_temperature(schedule, None, gs.as_step(3))
    np.testing.assert_allclose(temperature, schedule(3.0), rtol=1e-6)
