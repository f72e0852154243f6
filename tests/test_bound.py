"""The reconstruction term: the oracle is the Bernoulli cross-entropy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gs_modules.train.bound import reconstruction

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def test_reconstruction_and_its_gradient_are_the_cross_entropy_and_its_own():
    logits = np.array([-1e30, -100, -3, -1e-3, 0, 1e-3, 3, 100, 1e30], np.float32)
    for pixel in (0.0, 0.3, 1.0):
        found, gradient = jax.vmap(
            jax.value_and_grad(
                lambda logit, pixel=pixel: reconstruction(logit[None], jnp.full(1, pixel))
            )
        )(logits)
        wide = logits.astype(np.float64)
        np.testing.assert_allclose(
            found, np.logaddexp(wide, 0) - wide * pixel, rtol=1e-6, atol=1e-30
        )
        slope = np.exp(-np.logaddexp(-wide, 0)) - pixel
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-7)


def test_a_nan_logit_is_not_hidden():
    assert np.isnan(reconstruction(jnp.full(1, jnp.nan), jnp.zeros(1)))
