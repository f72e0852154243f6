"""Flax's transformer whose every token chooses one of three MLP blocks, in Linen."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_data
import transformer
import transformer_gated
from training import TrainState

from gs_modules.linen import GumbelGate

pytestmark = [
    pytest.mark.command,
    pytest.mark.slow,
    pytest.mark.usefixtures("promotion_as_users_have_it"),
]

STEPS = 300
sources = functools.cache(real_data.sources)


def cosine(step):
    """The schedule, from 1 to 0.3 in 400 steps."""
    return 0.3 + 0.7 * (1 + math.cos(math.pi * step / 400)) / 2


def held_out():
    text, generator = sources()[1], np.random.default_rng(1)
    return real_data.windows(text, generator.integers(0, len(text) - real_data.CONTEXT, 256))


@functools.cache
def trained_transformer(module):
    text, key, generator = sources()[0], jax.random.key(0), np.random.default_rng(0)
    model = module.TransformerLM(module.Config())
    state = TrainState.of(model, 5e-3, key, held_out()[:1])
    for _ in range(STEPS):
        starts = generator.integers(0, len(text) - real_data.CONTEXT, 16)
        state = module.train_step(state, real_data.windows(text, starts), key)
    return state


def bits(module, params):
    return float(module.evaluate(module.Config(), params, held_out()))


def bigram_bits():
    """By the byte before alone, with counts that start at 1."""
    text, counts = sources()[0], np.ones((256, 256))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    p = counts / counts.sum(1, keepdims=True)
    return -np.log2(p[held_out()[:, :-1], held_out()[:, 1:]]).mean()


def test_the_transformer_learns_more_than_pairs_of_bytes():
    """Bits per byte: 3.18 with gates, 3.15 without, 3.44 by the byte before alone."""
    plain, gated = (
        bits(module, trained_transformer(module).params)
        for module in (transformer, transformer_gated)
    )
    assert gated < bigram_bits() - 0.1
    assert gated < plain + 0.1


def test_the_gates_of_the_transformer_have_annealed():
    """Those of both layers, and each tells the temperature of its next call."""
    state = trained_transformer(transformer_gated)
    clocks = jax.tree.leaves(state.others["anneal"])
    assert clocks == [STEPS, STEPS] and state.step == STEPS
    _, others = state.apply_fn(
        {"params": state.params, **state.others},
        held_out()[:1],
        rngs={"gumbel": jax.random.key(0)},
        mutable=["anneal", "intermediates"],
        capture_intermediates=lambda module, name: (
            isinstance(module, GumbelGate) and name == "__call__"
        ),
    )
    recorded = others["intermediates"].values()
    gates = [output for block in recorded for output in block["GumbelGate_0"]["__call__"]]
    assert len(gates) == 2
    for gate in gates:
        np.testing.assert_allclose(gate.temperature, cosine(STEPS), rtol=1e-6)


def test_the_transformer_is_deterministic_in_evaluation():
    params = trained_transformer(transformer_gated).params
    model = transformer_gated.TransformerLM(transformer_gated.Config(deterministic=True))
    first, second = (model.apply({"params": params}, held_out()[:8]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_transformer_relies_on_its_choices():
    """With the MLP block beside the one chosen it needs a quarter of a bit more."""
    roll = functools.partial(jnp.roll, shift=1, axis=-1)
    params = trained_transformer(transformer_gated).params
    blocks = {name: params[name] for name in ("block_0", "block_1")}
    others = {
        name: {**block, "GumbelGate_0": jax.tree.map(roll, block["GumbelGate_0"])}
        for name, block in blocks.items()
    }
    worse = bits(transformer_gated, {**params, **others})
    assert worse > bits(transformer_gated, params) + 0.1
