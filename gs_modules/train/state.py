"""What a run is at one step: all that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from gs_modules.train.bound import Totals
from gs_modules.train.failure import CommandError
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


class NonFiniteLossError(CommandError):
    """The loss became NaN or infinite."""

    exit_code = 4


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

    def check(self, step: int, temperature: Callable[[int], jax.Array]) -> None:
        """Refuses what is not finite.

        Args:
            step: of the optimizer, after the update.
            temperature: the schedule.
        """
        loss = float(self.loss)
        if math.isfinite(loss) and self.is_finite:
            return
        what = "parameters became not finite" if math.isfinite(loss) else f"loss became {loss}"
        raise NonFiniteLossError(
            f"the {what} at step {step}, at temperature {float(temperature(step - 1)):.6g} and "
            f"with a gradient of norm {float(self.gradient_norm):.6g}"
        )
