"""The ten lines of JAX that most people write: what this library is compared with."""

import jax
import jax.numpy as jnp

EPSILON = 1e-20


def textbook(key, logits, temperature=1.0, hard=True):
    """A Gumbel-Softmax sample over the last axis."""
    uniform = jax.random.uniform(key, logits.shape, logits.dtype)
    noise = -jnp.log(-jnp.log(uniform + EPSILON) + EPSILON)
    soft = jax.nn.softmax((logits + noise) / temperature)
    if not hard:
        return soft
    drawn = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
    return jax.lax.stop_gradient(drawn - soft) + soft
