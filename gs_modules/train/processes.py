"""The processes of one run on several hosts: who writes, and what all must do alike.

A run is one process, or several that JAX's coordination service knows of. Each computes the same
steps; the first alone writes and speaks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from gs_modules.train.failure import CommandError

HEARTBEAT_SECONDS = 10
"""Without a sign of life for so long, a process is taken for dead and all others end."""

JOINING_SECONDS = 120


class JoiningError(CommandError):
    """The processes of a run did not find each other."""

    exit_code = 2


class LostProcessError(CommandError):
    """Another process of the run is gone, and with it a part of every computation."""


@contextlib.contextmanager
def joined(address: str | None, count: int | None, index: int | None) -> Iterator[None]:
    """Within this, the process is one of a run on several hosts.

    Args:
        address: ``HOST:PORT`` of the first process, ``"auto"`` where the scheduler's environment
            says it all (Slurm, Open MPI, Kubernetes and others that JAX knows); None for one
            process alone.
        count: how many processes; None with ``"auto"``.
        index: which of them this is, from 0; None with ``"auto"``.

    Raises:
        JoiningError: the others are not there.
        LostProcessError: one of them is no longer. JAX itself ends a process, with a message of
            its own, that learns so while it computes nothing.
    """
    if address is None:
        yield
        return
    try:
        jax.distributed.initialize(
            None if address == "auto" else address,
            count,
            index,
            initialization_timeout=JOINING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = f"{error}".partition("\n")[0]
        raise JoiningError(f"--coordinator-address {address}: {reason}") from error
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Where a process waits for the others, XLA's error arrives as a ValueError.
        if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in f"{error}":
            raise
        raise LostProcessError(
            "another process of this run has ended; the same command on every host continues from "
            "the last checkpoint"
        ) from error
    # Not after an exception, which the others may not have: they learn of it by the silence.
    jax.distributed.shutdown()


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
