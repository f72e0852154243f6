"""Polynomial programming with few latents: what the second order of ReinMax is worth.

The oracles are the optimum, ``0.45**p``, and the margins between the published losses of the two
estimators (Liu et al. 2023, the benchmark's ``PUBLISHED``).
"""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gs_modules as gs

BENCHMARK = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "polynomial.py"))


def last_losses(name):
    """The sampled and the expected loss of the last epoch, for each power."""
    small = functools.partial(BENCHMARK["losses"], gs.ESTIMATORS[name](), latents=8, batch=32)
    powers = jnp.array(BENCHMARK["POWERS"])
    both = jax.jit(jax.vmap(small, (None, 0)))(jax.random.key(0), powers)
    return [np.asarray(by_epoch)[:, -1] for by_epoch in both]


@pytest.mark.usefixtures("promotion_as_users_have_it")
def test_reinmax_beats_straight_through_gumbel_by_nine_tenths_of_the_published_margin():
    sampled, reinmax = last_losses("reinmax")
    np.testing.assert_allclose(sampled, reinmax, rtol=0, atol=1e-3)
    assert np.all(reinmax > 0.45 ** np.array(BENCHMARK["POWERS"]))
    _, straight_through_gumbel = last_losses("straight_through_gumbel")
    published = BENCHMARK["PUBLISHED"]
    margins = np.subtract(published["straight_through_gumbel"], published["reinmax"])
    assert np.all(straight_through_gumbel - reinmax > 0.9 * margins)
