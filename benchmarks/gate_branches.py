"""How long a deterministic gate takes to combine eight branches, against the chosen branch alone.

    python benchmarks/gate_branches.py

Branches are two-layer perceptrons, as functions of nothing, so that the chosen one alone is
computed; all programs are compiled, and timed in turn in one process. Writes
`benchmarks/results/gate_branches.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx
from recording import record

from gs_modules.nnx import GumbelGate

CHOICES = 8
SIZES = {"small": (64, 128), "medium": (256, 512), "large": (1024, 1024)}
"""Rows of the input, and width of a branch."""


def programs(rows: int, width: int):
    """``chosen``, ``combined`` of functions and ``all`` of a list, as compiled calls."""
    keys = jax.random.split(jax.random.key(0), 2)
    first = jax.random.normal(keys[0], (CHOICES, width, width)) / width**0.5
    second = jax.random.normal(keys[1], (CHOICES, width, width)) / width**0.5
    x = jnp.ones((rows, width))
    gate = GumbelGate(CHOICES, deterministic=True, rngs=nnx.Rngs(0))
    gate.logits[...] = jax.nn.one_hot(5, CHOICES)
    graph, state = nnx.split(gate)

    def branch(n, first, second, x):
        return jax.nn.relu(x @ first[n]) @ second[n]

    @jax.jit
    def chosen(state, first, second, x):
        return branch(5, first, second, x)

    @jax.jit
    def combined(state, first, second, x):
        output = nnx.merge(graph, state)()
        return output.combine([lambda n=n: branch(n, first, second, x) for n in range(CHOICES)])

    @jax.jit
    def every(state, first, second, x):
        output = nnx.merge(graph, state)()
        return output.combine([branch(n, first, second, x) for n in range(CHOICES)])

    arguments = (state, first, second, x)
    return {
        name: lambda program=program: program(*arguments).block_until_ready()
        for name, program in {"chosen": chosen, "combined": combined, "all": every}.items()
    }


def seconds(call, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def measure(rows: int, width: int, rounds: int) -> dict[str, float]:
    calls = programs(rows, width)
    for call in calls.values():
        call()
    repeats = max(3, int(0.05 / seconds(calls["chosen"], 3)))
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, repeats))
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        **{f"{name}_us": round(1e6 * found, 1) for name, found in medians.items()},
        "combined_over_chosen": round(medians["combined"] / medians["chosen"], 3),
        "all_over_chosen": round(medians["all"] / medians["chosen"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    results = {name: measure(*sizes, rounds) for name, sizes in SIZES.items()}
    for name, found in results.items():
        print(name, found)
    record(
        "gate_branches",
        "python benchmarks/gate_branches.py",
        jax=jax.__version__,
        backend=jax.default_backend(),
        choices=CHOICES,
        rows_and_width=SIZES,
        results=results,
    )


if __name__ == "__main__":
    main()
