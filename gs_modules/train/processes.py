"""The processes of one run on several hosts: who writes, and what all must do alike.

A run is one process, or several that JAX's coordination service knows of. Each computes the same
steps; the first alone writes and speaks.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process writes the files of the run."""
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """The value of the first process, in all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def largest(value: int) -> int:
    """The largest of the values of all processes, in all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def meet(where: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)
