"""Whatever gives a sample of one class per row, compiled once for many tests, and its formula."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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

every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


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
