"""Arrays on a mesh of explicit axes, where JAX must be told how new ones are sharded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def explicit_sharding(array: jax.Array) -> NamedSharding | None:
    """The sharding of ``array`` on a mesh of explicit axes, None on any other."""
    sharding = jax.typeof(array).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def sharding_with(
    array: jax.Array, spec_of: Callable[[tuple[Any, ...]], Iterable[Any]]
) -> NamedSharding | None:
    """``explicit_sharding`` with ``spec_of(spec)`` in place of its partition of each axis."""
    sharding = explicit_sharding(array)
    if sharding is None:
        return None
    return sharding.update(spec=PartitionSpec(*spec_of(tuple(sharding.spec))))


def result_type(function: Callable[[jax.Array], jax.Array], operand: jax.Array) -> Any:
    """``jax.eval_shape``, which forgets the explicit axes of a mesh that has automatic ones too."""
    of_program = jax.make_jaxpr(function)(operand).out_avals[0]
    is_explicit = AxisType.Explicit in of_program.sharding.mesh.axis_types
    sharding = of_program.sharding if is_explicit else None
    return jax.ShapeDtypeStruct(of_program.shape, of_program.dtype, sharding=sharding)


def full_like(array: jax.Array, value: float) -> jax.Array:
    """``lax.full_like``, for a select among constants: it must be sharded as ``array`` is.

    Beside another operand it need not be. Under jit, that of jax 0.12 forgets an explicit mesh.
    """
    constant, sharding = lax.full_like(array, value), explicit_sharding(array)
    if sharding is None or explicit_sharding(constant) == sharding:
        return constant
    return jax.sharding.reshard(constant, sharding)


def has_one_device() -> bool:
    """Whether there is one device alone, which holds every array whole."""
    return jax.device_count() == 1 and jax.sharding.get_abstract_mesh().empty


def is_divided(array: jax.Array, axis: int) -> bool:
    """Whether devices of an explicit mesh divide this axis: nothing is sliced or gathered on it."""
    sharding = explicit_sharding(array)
    return sharding is not None and sharding.spec[axis] is not None


def positions(array: jax.Array, axis: int) -> jax.Array:
    """int32 of the shape and the sharding of ``array``: where each number stands on ``axis``."""
    sharding = explicit_sharding(array)
    return lax.broadcasted_iota(jnp.int32, array.shape, axis, out_sharding=sharding)
