"""A choice among branches: the weighted sum of what they give, or the chosen one alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from gs_modules import _arguments
from gs_modules._relaxed import with_derivative_of

Branches = ArrayLike | Sequence[ArrayLike] | Sequence[Callable[[], ArrayLike]]


def combined(
    weights: jax.Array, logits: jax.Array, branches: Any, chosen: jax.Array | None
) -> jax.Array:
    """``sum_n weights[..., n] * branches[n]``; see ``GateOutput.combine``.

    ``chosen`` is the index of the only branch that counts, -1 for none, or None where several may.
    """
    num_choices = weights.shape[-1]
    try:
        count = len(branches)
    except TypeError:
        raise TypeError(
            f"branches must be an array [N, ...], a list of arrays or a list of functions of "
            f"nothing, got {type(branches).__name__}"
        ) from None
    if count != num_choices:
        raise ValueError(f"the gate has {num_choices} choices: give as many branches, got {count}")
    branches = list(branches)
    if any(map(_is_function, branches)):
        if not all(map(_is_function, branches)):
            raise TypeError(
                "branches must be all arrays or all functions of nothing, got some of each"
            )
        _check_functions(branches)
        if chosen is not None:
            return _chosen_alone(weights, branches, chosen)
        branches = [branch() for branch in branches]
    for value in branches:
        if isinstance(value, (tuple, list)):
            raise TypeError(f"a branch must be one array, got a {type(value).__name__}")
    arrays = [_arguments.floating_array("branch", value) for value in branches]
    _check_branches(arrays, weights.shape[:-1])
    return _weighted_sum(weights, logits, arrays)


def _is_function(branch: Any) -> bool:
    return callable(branch) and not hasattr(branch, "dtype")  # a variable of Flax is callable too


def _check_functions(branches: Sequence[Callable[..., Any]]) -> None:
    """Refuses what cannot be called with nothing, a module of Flax or Haiku for instance."""
    for branch in branches:
        try:
            inspect.signature(branch).bind()
        except TypeError as error:
            raise TypeError(
                f"a branch that is a function takes nothing, got {type(branch).__name__} with a "
                f"{error}; give what it returns, branch(x), or lambda: branch(x)"
            ) from None
        except ValueError:  # of a builtin, which has no signature
            continue


def _check_branches(branches: Sequence[Any], batch: tuple[int, ...]) -> None:
    """Refuses arrays, or shapes and dtypes of arrays, that differ or do not fit the gate."""
    for what in ("shape", "dtype"):
        found = list(dict.fromkeys(str(getattr(branch, what)) for branch in branches))
        if len(found) > 1:
            raise ValueError(f"branches must have one {what}, got {' and '.join(found)}")
    if branches[0].shape[: len(batch)] != batch:
        raise ValueError(
            f"branches of shape {branches[0].shape} must begin with the axes of the gate's weights "
            f"but the last: {batch}"
        )


@functools.partial(jax.jit, inline=True)
def _weighted_sum(weights, logits, branches):
    dtype = branches[0].dtype
    trailing = (1,) * (branches[0].ndim - weights.ndim + 1)
    computing = _arguments.computing_dtype(dtype)

    def of_branch(per_choice, n):
        return per_choice[..., n].reshape(*per_choice.shape[:-1], *trailing)

    def total(left_out):
        """Without the branches that ``left_out`` names, whose NaN would survive a weight of 0."""
        terms = [
            jnp.where(
                of_branch(left_out, n),
                0,
                of_branch(weights, n).astype(computing) * branch.astype(computing),
            )
            for n, branch in enumerate(branches)
        ]
        return functools.reduce(jnp.add, terms).astype(dtype)

    return with_derivative_of(total(weights == 0), total(logits == -jnp.inf))


def _chosen_alone(
    weights: jax.Array, branches: Sequence[Callable[[], jax.Array]], chosen: jax.Array
) -> jax.Array:
    shapes = [jax.eval_shape(branch) for branch in branches]
    for shape in shapes:
        if not jnp.issubdtype(getattr(shape, "dtype", jnp.int32), jnp.floating):
            raise TypeError(f"a branch must give a floating-point array, got {shape}")
    _check_branches(shapes, ())

    def none() -> jax.Array:  # zeros, or NaN where the logits are
        return jnp.full(shapes[0].shape, weights.sum().astype(shapes[0].dtype))

    number = jnp.where(chosen < 0, len(branches), chosen)
    return lax.switch(number, [*branches, none])
