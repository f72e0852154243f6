"""What a run is at one step: all that a checkpoint holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from gs_modules.train.bound import Totals
from gs_modules.train.models import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What every optimizer step changes.

    Attributes:
        step: int32, optimizer updates so far: the clock of everything.
        params: the trained parameters.
        optimizer: the optimizer's state.
    """

    step: jax.Array
    params: Params
    optimizer: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Best:
    """The parameters to keep: of the best validation bound, or the last without validation.

    Attributes:
        step: when they were evaluated.
        bound: their validation bound in nats; infinite without validation.
        params: the parameters.
    """

    step: jax.Array
    bound: jax.Array
    params: Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything a run needs to go on.

    Attributes:
        state: what the optimizer made.
        totals: of the training batches since the last record.
        best: the parameters to keep.
    """

    state: TrainState
    totals: Totals
    best: Best


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LastUpdate:
    """What tells a run that goes on from one that went wrong.

    Attributes:
        loss: in nats per example; not finite where the loop ended early.
        gradient_norm: of all parameters together.
        is_finite: whether all parameters are.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    is_finite: jax.Array
