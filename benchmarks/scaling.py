"""How the time of a sample grows with rows, with classes, and with shards of a category axis.

    python benchmarks/scaling.py

Medians of interleaved rounds on one device of two cores, and on eight simulated devices among which
the classes are divided. Prints tables and writes `benchmarks/results/scaling.json`.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import statistics
import sys
import time

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from peers import KEPT
from recording import record

import gs_modules as gs

ROUNDS = 9
DEVICES = 8
CLASSES = [2**n for n in range(6, 18)]
ROWS = [2**n for n in range(4, 13)]
SAMPLES = {
    "soft": gs.gumbel_softmax,
    "hard": functools.partial(gs.gumbel_softmax, hard=True),
    "index": lambda key, logits, temperature: gs.gumbel_max(key, logits),
}


def calls_of(shapes, sharding=None):
    """``{(name, shape): call}``, compiled."""
    calls = {}
    for shape in shapes:
        logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        logits = jax.device_put(logits, sharding)
        for name, sample in SAMPLES.items():
            program = jax.jit(sample).lower(jax.random.key(0), logits, np.float32(0.7)).compile()
            calls[name, shape] = functools.partial(
                program, jax.random.key(0), logits, np.float32(0.7)
            )
    return calls


def medians(calls):
    """Microseconds of a call, each timed for about 20 milliseconds a round."""
    repeats = {}
    for label, call in calls.items():
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready(call())
        repeats[label] = max(1, int(0.02 / (time.perf_counter() - began)))
    times = {label: [] for label in calls}
    for _ in range(ROUNDS):
        for label, call in calls.items():
            began = time.perf_counter()
            for _ in range(repeats[label]):
                jax.block_until_ready(call())
            times[label].append((time.perf_counter() - began) / repeats[label])
    return {label: 1e6 * statistics.median(found) for label, found in times.items()}


def table(shapes, sharding=None):
    found = medians(calls_of(shapes, sharding))
    rows = []
    for shape in shapes:
        microseconds = {name: round(found[name, shape], 1) for name in SAMPLES}
        a_logit = {name: round(1e3 * found[name, shape] / math.prod(shape), 3) for name in SAMPLES}
        rows.append({"shape": shape, "microseconds": microseconds, "nanoseconds_a_logit": a_logit})
        print(shape, microseconds, a_logit)
    return rows


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if not KEPT.items() <= os.environ.items():  # glibc reads them when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})
    jax.config.update("jax_num_cpu_devices", DEVICES)
    mesh = jax.make_mesh((DEVICES,), ("shards",), axis_types=(AxisType.Auto,))
    divided = NamedSharding(mesh, PartitionSpec(None, "shards"))
    record(
        "scaling",
        "python benchmarks/scaling.py",
        jax=jax.__version__,
        classes=table([(64, classes) for classes in CLASSES]),
        rows=table([(rows, 1024) for rows in ROWS]),
        eight_shards=table([(64, classes) for classes in CLASSES], divided),
    )


if __name__ == "__main__":
    main()
