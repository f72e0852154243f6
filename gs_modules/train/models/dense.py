"""The product of a dense layer, with a derivative that XLA computes fast on CPU."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

OF_MATRICES = (((1,), (0,)), ((), ()))


def dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """``lax.dot_general``, for the argument of that name of Flax's layers.

    The gradient to a kernel sums over the batch, which is the first axis of both factors. XLA on
    CPU leaves that to a library that takes several times as long for small matrices, and so is
    given the transposed input instead.

    Args:
        x: ``[B, D]``; other shapes are left to ``lax.dot_general``.
        kernel: ``[D, N]``.
        dimensions: what is summed over.
        **options: of ``lax.dot_general``.
    """
    if dimensions != OF_MATRICES or x.ndim != 2:
        return lax.dot_general(x, kernel, dimensions, **options)

    @jax.custom_jvp
    def product(x, kernel):
        return lax.dot_general(x, kernel, dimensions, **options)

    @product.defjvp
    def _product_jvp(primals, tangents):
        x, kernel = primals
        of_x = lax.dot_general(tangents[0], kernel, dimensions, **options)
        transposed = lax.platform_dependent(
            x, cpu=lambda x: lax.optimization_barrier(x.T), default=lambda x: x.T
        )
        of_kernel = lax.dot_general(transposed, tangents[1], (((0,), (0,)), ((), ())), **options)
        return product(x, kernel), of_x + of_kernel

    return product(x, kernel)
