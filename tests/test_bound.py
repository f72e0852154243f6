"""The bound: its reconstruction against the cross-entropy in float64, and sums over batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gs_modules import Usage
from gs_modules.train.bound import Totals, reconstruction

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


def test_totals_add_up_and_their_counts_stop_at_the_largest_integer():
    def totals(number, counts):
        return Totals(*map(jnp.float32, number), Usage(jnp.array(counts, jnp.int32)))

    found = totals((1, 2, 3), [[2**31 - 3, 4]]) + totals((10, 20, 30), [[5, 6]])
    assert (found.count, found.reconstruction, found.kl) == (11, 22, 33)
    assert found.usage.counts.tolist() == [[2**31 - 1, 10]]
