"""The order of the images: a function of the seed and the step alone, so that any step is known."""

from __future__ import annotations

import numpy as np


def batches_of(seed: int, images: int, batch_size: int, steps: range) -> np.ndarray:
    """The row numbers int32 ``[len(steps), batch_size]`` of the batches of some steps.

    Every epoch is a permutation drawn from the seed and the number of the epoch; what is left of it
    after the last whole batch is dropped.

    Args:
        seed: of the run.
        images: how many there are to train on.
        batch_size: of these in a step.
        steps: one after the other.
    """
    per_epoch = images // batch_size
    rows = np.zeros((len(steps), batch_size), np.int32)
    for epoch in range(steps.start // per_epoch, (steps.stop - 1) // per_epoch + 1):
        order = np.random.default_rng([seed, epoch]).permutation(images)
        whole_batches = order[: per_epoch * batch_size].reshape(per_epoch, batch_size)
        begin = epoch * per_epoch
        here = np.arange(max(steps.start, begin), min(steps.stop, begin + per_epoch))
        rows[here - steps.start] = whole_batches[here - begin]
    return rows
