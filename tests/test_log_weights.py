"""Logits of unnormalised weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import KEY, every_dtype

import gs_modules as gs


@every_dtype
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
