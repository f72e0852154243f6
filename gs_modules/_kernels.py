"""Where a fused kernel computes, and where XLA does."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gs_modules._loops import is_static
from gs_modules._sharding import has_one_device

LARGEST_SIZE = 2**31 - 2**15
"""Kernels count in int32, and to the end of a step."""


@functools.cache
def fused() -> Any:
    """The file of the kernels, or None where jax no longer has Pallas for Triton.

    Imported where there is a GPU: Pallas takes as long to import as the rest of this library.
    """
    try:
        return importlib.import_module("gs_modules._fused")
    except ImportError:
        return None


def serve(array: jax.Array, axis: int) -> bool:
    """Whether there are kernels for rows of ``array`` on ``axis``, should it be on a GPU.

    Only where there is one device: XLA would gather an array that is divided among several. Rows
    of two are combined with themselves, which XLA does in one pass, and of one there is no choice.
    """
    return (
        jax.default_backend() == "gpu"
        and fused() is not None
        and has_one_device()
        and array.dtype != jnp.float64
        and axis == array.ndim - 1
        and is_static(array.shape)
        and array.shape[axis] > 2
        and 0 < array.size <= LARGEST_SIZE
    )


def by_platform(by_kernel, by_xla, *args):
    return lax.platform_dependent(*args, cuda=by_kernel, default=by_xla)
