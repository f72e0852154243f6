"""The Jacobian of softmax times a vector: by a fused kernel on a GPU, by XLA anywhere else.

XLA reads both arrays twice. The kernel is behind a primitive of our own: the product is linear in
the vector and its own transpose, and jax has no other way to say so that keeps forward mode, second
derivatives and ``vmap``.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from gs_modules import _kernels

product_p = Primitive("softmax_jacobian_product")


def is_fused(relaxed: jax.Array, axis: int) -> bool:
    """Whether a kernel computes the ``product``, should it be computed on a GPU."""
    return _kernels.serve(relaxed, axis) and _kernels.fused().is_one_step(relaxed.shape)


def product(relaxed: jax.Array, scale: jax.Array, vector: jax.Array, dtype: DTypeLike) -> jax.Array:
    """``scale * y * (c - sum(y * c))`` with ``c = scale * vector``, over the last axis.

    Where ``relaxed``, float32, is 0, the result is 0, whatever the vector is there. ``scale``
    broadcasts to the others, with size 1 on the last axis; ``vector`` is floating, and ``dtype``
    that of the result.
    """
    shape = () if scale.size == 1 else (*relaxed.shape[:-1], 1)
    scale = scale.reshape(shape) if scale.size == 1 else jnp.broadcast_to(scale, shape)
    return product_p.bind(relaxed, scale, vector, dtype=jnp.dtype(dtype))


def _by_xla(relaxed, scale, vector, dtype):
    change = vector.astype(relaxed.dtype) * scale
    total = jnp.sum(jnp.where(relaxed == 0, 0, relaxed * change), -1, keepdims=True)
    return (scale * jnp.where(relaxed == 0, 0, relaxed * (change - total))).astype(dtype)


def _computed(relaxed, scale, vector, *, dtype):
    def by_kernel(relaxed, scale, vector):
        return _kernels.fused().jacobian_product(relaxed, scale, vector, dtype)

    by_xla = functools.partial(_by_xla, dtype=dtype)
    if relaxed.size > _kernels.LARGEST_SIZE:  # of many examples that vmap has put together
        return by_xla(relaxed, scale, vector)
    return _kernels.by_platform(by_kernel, by_xla, relaxed, scale, vector)


def _shape(relaxed: Any, scale: Any, vector: Any, *, dtype: DTypeLike) -> Any:
    del relaxed, scale
    return vector.update(dtype=dtype, weak_type=False)


def _jvp(primals, tangents, *, dtype):
    relaxed, scale, vector = primals
    result = product_p.bind(*primals, dtype=dtype)
    *others, vector_tangent = tangents
    terms = []
    if not isinstance(vector_tangent, ad.Zero):
        terms.append(product_p.bind(relaxed, scale, vector_tangent, dtype=dtype))
    if not all(isinstance(tangent, ad.Zero) for tangent in others):

        def of_others(relaxed, scale):
            return _by_xla(relaxed, scale, vector, dtype)

        others = tuple(map(ad.instantiate_zeros, others))
        terms.append(jax.jvp(of_others, (relaxed, scale), others)[1])
    return result, functools.reduce(operator.add, terms)


def _transpose(cotangent, relaxed, scale, vector, *, dtype):
    del dtype
    if isinstance(cotangent, ad.Zero):
        return None, None, ad.Zero(vector.aval)
    return None, None, product_p.bind(relaxed, scale, cotangent, dtype=vector.aval.dtype)


def _batched(args, axes, *, dtype):
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    relaxed, scale, vector = (
        x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(args, axes, strict=True)
    )
    shape = (size, *(vector.shape if axes[2] is None else vector.shape[1:]))
    if axes[1] is not None and scale.ndim == 1:
        scale = lax.expand_dims(scale, range(1, len(shape)))
    if scale.ndim:
        scale = jnp.broadcast_to(scale, (*shape[:-1], 1))
    relaxed, vector = (jnp.broadcast_to(x, shape) for x in (relaxed, vector))
    return product_p.bind(relaxed, scale, vector, dtype=dtype), 0


product_p.def_impl(_computed)
product_p.def_abstract_eval(_shape)
mlir.register_lowering(product_p, mlir.lower_fun(_computed, multiple_results=False))
ad.primitive_jvps[product_p] = _jvp
ad.primitive_transposes[product_p] = _transpose
batching.primitive_batchers[product_p] = _batched
