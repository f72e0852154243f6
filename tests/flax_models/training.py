"""The state of a Linen training, as Flax's guide keeps it for BatchNorm."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import optax
from flax import linen as nn
from flax.training import train_state


class TrainState(train_state.TrainState):
    """Whatever collections a model has besides its parameters are in ``others``; it may be none."""

    others: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, learning_rate: float, *inputs: Any) -> "TrainState":
        others, params = flax.core.pop(jax.jit(model.init)(*inputs), "params")
        tx = optax.adam(learning_rate)
        return cls.create(apply_fn=model.apply, params=params, others=others, tx=tx)
