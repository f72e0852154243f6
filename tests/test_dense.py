"""The product of a dense layer: the oracle is ``lax.dot_general``, and its derivatives."""

import re
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from gs_modules.train import data
from gs_modules.train.config import Config
from gs_modules.train.loop import Trainer
from gs_modules.train.models.dense import dot_general

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

SHAPES = {"matrix": (5, 3), "batch_of_matrices": (2, 5, 3), "row": (3,)}


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_derivatives_are_those_of_lax(name):
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in (SHAPES[name], (3, 4)))
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))

    def found_and_expected(transform):
        for product in (dot_general, lax.dot_general):
            yield jax.jit(transform(lambda x, kernel, f=product: f(x, kernel, dimensions) ** 2))

    for transform in (
        lambda f: f,
        lambda f: jax.grad(lambda *inputs: f(*inputs).sum(), (0, 1)),
        lambda f: lambda *inputs: jax.jvp(f, inputs, inputs),
    ):
        found, expected = (function(x, kernel) for function in found_and_expected(transform))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("framework", ["nnx", "linen", "haiku"])
def test_no_product_of_a_step_is_left_to_the_slow_library(framework):
    """XLA on CPU calls it for sums over the first axis of both factors; those are kernels' here."""
    config = Config.model_validate({"framework": framework, "training": {"steps": 3}})
    images = data.of(config.data)
    trainer = Trainer.of(config, images)
    compiled: Any = trainer.compiled_chunk
    program = str(compiled.as_text())
    products = re.findall(
        r" dot\(.*lhs_contracting_dims=\{(\d)\}, rhs_contracting_dims=\{(\d)\}", program
    )
    assert len(products) == 11  # of 4 layers: forward, to kernels, and to 3 inputs
    assert ("0", "0") not in products
