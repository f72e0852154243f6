"""The devices of a run: a mesh of data times classes, and what of an array lies on which."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gs_modules.train.sections import ImpossibleValueError
from gs_modules.train.sections import Mesh as Shape


class Devices:
    """Where the arrays of a run lie; on one device, nothing is said of it.

    Args:
        shape: how many devices share the examples of a batch, and the classes of the latents.

    Raises:
        ImpossibleValueError: there are not as many devices.
    """

    def __init__(self, shape: Shape):
        count = shape.data * shape.classes
        if count > len(jax.devices()):
            raise ImpossibleValueError(
                "mesh.data" if shape.classes == 1 else "mesh.classes",
                f"mesh.data {shape.data} times mesh.classes {shape.classes} are {count} devices, "
                f"and there are {len(jax.devices())} of kind {jax.devices()[0].platform}; "
                "JAX_NUM_CPU_DEVICES in the environment simulates any number on CPU",
            )
        if count < jax.device_count() and jax.process_count() > 1:
            raise ImpossibleValueError(
                "mesh.data",
                f"mesh.data {shape.data} times mesh.classes {shape.classes} are {count} devices, "
                f"and the {jax.process_count()} processes of this run have {jax.device_count()}",
            )
        self._mesh = _mesh(shape.data, shape.classes) if count > 1 else None

    @property
    def replicated(self) -> NamedSharding | None:
        """An array that every device holds; None where there is one."""
        return self._mesh and NamedSharding(self._mesh, PartitionSpec())

    def put(self, array: np.ndarray | np.generic) -> jax.Array:
        """On every device; all processes give the same."""
        if self.replicated is None:
            return jnp.asarray(array)
        # Not device_put, which asks all processes whether their arrays are equal.
        return jax.make_array_from_callback(
            array.shape, self.replicated, lambda i: np.asarray(array)[i]
        )

    def over_data(self, batch: jax.Array) -> jax.Array:
        """``[B, ...]``, with a part of the examples on each device of the axis ``data``."""
        if self._mesh is None:
            return batch
        return lax.with_sharding_constraint(batch, NamedSharding(self._mesh, PartitionSpec("data")))

    def over_classes(self, logits: jax.Array, num_classes: int) -> jax.Array:
        """``[..., L * K]``, with a part of each latent's classes on each device of ``classes``."""
        if self._mesh is None or self._mesh.shape["classes"] == 1:
            return logits
        by_class = logits.reshape(*logits.shape[:-1], -1, num_classes)
        free = PartitionSpec.UNCONSTRAINED
        spec = PartitionSpec(*[free] * (by_class.ndim - 1), "classes")
        by_class = lax.with_sharding_constraint(by_class, NamedSharding(self._mesh, spec))
        return by_class.reshape(logits.shape)


@functools.cache
def _mesh(data: int, classes: int) -> Mesh:
    devices = jax.devices()[: data * classes]
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, classes), ("data", "classes"), axis_types=axes, devices=devices)
