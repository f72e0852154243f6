"""What the conformance tests share: every module in every framework, started and checked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frameworks import (
    FRAMEWORKS,
    inputs,
    logits_of,
    model,
    public_modules,
    sample_of,
)

import gs_modules as gs

KEY = jax.random.key(3)
LAST = 2**31 - 1
ANNEALED = gs.Linear(2.0, 0.5, 100)
OPTIONS = {"temperature": ANNEALED, "estimator": gs.Pathwise()}

every_module = pytest.mark.parametrize(
    ("framework", "module"),
    [(framework, name) for framework in FRAMEWORKS for name in public_modules(framework)],
    ids=lambda value: getattr(value, "name", value),
)
every_framework = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda value: value.name)


@functools.cache
def started(framework, module, /, **options):
    """An annealed model of relaxed samples, which show the temperature, after ``init``."""
    built = model(framework, module, **OPTIONS | options)
    return built, *built.init(KEY, inputs())


def relaxed(module, temperature, x=None, key=KEY):
    return gs.gumbel_softmax(key, logits_of(module, inputs() if x is None else x), temperature)


def assert_drawn_at(output, module, temperature):
    """That the sample is the core's at this temperature, bit for bit, and reported as such."""
    np.testing.assert_array_equal(sample_of(output), relaxed(module, temperature))
    if hasattr(output, "temperature"):
        assert output.temperature.dtype == jnp.float32
        np.testing.assert_array_equal(output.temperature, jnp.float32(temperature))


def assert_clocks(built, state, expected):
    clocks = built.clocks(state)
    assert [(clock.dtype, clock.shape) for clock in clocks] == [(jnp.int32, ())] * len(expected)
    assert [int(clock) for clock in clocks] == expected


def keys(count):
    return [jax.random.fold_in(KEY, step) for step in range(count)]
