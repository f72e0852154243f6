"""The speed of a sample and of its gradient, here and in what people use instead.

    python benchmarks/peers.py --torch-python PYTHON_WITH_TORCH --peers-python PYTHON_WITH_PEERS

Every peer is a worker process of its own; for each cell, the workers that know it are called in
turn, round after round, so that the noise of a shared machine meets all alike. Where the arrays of
a process happen to lie can double its times, so several sets of workers do all of it. Prints a
table and writes `benchmarks/results/peers.json`, the median milliseconds of a call, the time of
each peer by ours, the megabytes of temporaries and the seconds of compilation, and
`docs/images/peers.png`. Besides soft and hard samples, a lookup is `gumbel_lookup`, elsewhere a
hard sample times the table, or its row where a peer draws an index; over keys, a program of jax is
mapped over 8 keys and as many parts of the logits. `ours` and `textbook` need this library alone,
`torch` needs torch, the others tensorflow-probability, distrax and numpyro with a jax on which they
import; a peer whose packages are missing is left out, by name.

* textbook: uniform, two logarithms with an epsilon, softmax, `stop_gradient(one_hot - y) + y`.
* categorical: `jax.random.categorical` and a one-hot of it; of hard samples forward alone.
* torch_function, torch_compiled, torch_distribution: `torch.nn.functional.gumbel_softmax`, the same
  by `torch.compile`, and `RelaxedOneHotCategorical.rsample`.
* tfp, distrax: `RelaxedOneHotCategorical`, and `straight_through_wrapper(OneHotCategorical)`.
* numpyro: `RelaxedBernoulli`, of two classes as log-odds.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from recording import record

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SHAPES = {
    "128x20x10": (128, 20, 10),
    "4096x320": (4096, 320),
    "65536x2": (65536, 2),
    "65536x16": (65536, 16),
    "1024x8192": (1024, 8192),
    "256x50257": (256, 50257),
}
DTYPES = {"4096x320": ("float32", "bfloat16")}
MODES = [(kind, passes) for kind in ("soft", "hard") for passes in ("forward", "forward+backward")]
CELLS = [
    (shape, dtype, *mode)
    for shape in SHAPES
    for dtype in DTYPES.get(shape, ("float32",))
    for mode in MODES
]
CELLS += [("1024x8192", "float32", "lookup", passes) for passes in ("forward", "forward+backward")]
CELLS += [
    (shape, "float32", kind, "forward over keys")
    for shape in ("4096x320", "65536x16", "1024x8192")
    for kind in ("soft", "hard")
]
PEERS = {
    "ours": "here",
    "textbook": "here",
    "categorical": "here",
    "torch_function": "torch",
    "torch_compiled": "torch",
    "torch_distribution": "torch",
    "tfp": "peers",
    "distrax": "peers",
    "numpyro": "peers",
}
"""Of each peer, the environment that has its packages."""
PACKAGES = {
    "here": ["jax"],
    "torch": ["torch"],
    "peers": ["jax", "tensorflow-probability", "distrax", "numpyro"],
}
KEYS = 8
COLUMNS = 256
"""Of the table of a lookup."""
SECONDS_A_TURN = 0.05
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_ARENA_MAX": "1",
}
"""For glibc to keep freed memory, in one arena, since those of threads are handed back whole. By
default it is chance which worker hands an array back after each call, and then pays as much for its
pages at the next as for the sample itself."""
TEMPERATURE = 0.7


def inputs(shape):
    """Logits, and the weights of the loss."""
    return np.random.default_rng(0).normal(size=(2, *SHAPES[shape])).astype(np.float32)


# --- workers: a call that returns when its result is there; None where a peer has no such cell ---


def table(shape):
    """What a lookup reads."""
    return np.random.default_rng(1).normal(size=(SHAPES[shape][-1], COLUMNS)).astype(np.float32)


def jax_call(peer, shape, kind, passes):
    """``sample(key, logits, temperature)`` of a cell, of a peer that is jax."""
    import jax
    import jax.numpy as jnp

    rows = jnp.asarray(table(shape)) if kind == "lookup" else None
    if rows is not None and peer == "ours":
        import gs_modules as gs

        return lambda key, logits, temperature: gs.gumbel_lookup(key, logits, rows, temperature)[0]
    if rows is not None and peer == "categorical":
        return lambda key, logits, temperature: rows[jax.random.categorical(key, logits)]
    sample = jax_sample(peer, shape, "hard" if kind == "lookup" else kind)
    if sample is not None and rows is not None:
        return lambda *arguments: sample(*arguments) @ rows
    if sample is not None and passes.endswith("over keys"):

        def over_keys(key, logits, temperature):
            parts = logits.reshape(KEYS, -1, logits.shape[-1])
            mapped = jax.vmap(sample, (0, 0, None))
            return mapped(jax.random.split(key, KEYS), parts, temperature)

        return over_keys
    return sample


def jax_sample(peer, shape, kind):
    """``sample(key, logits, temperature)`` of a peer that is jax."""
    import jax
    import jax.numpy as jnp

    hard = kind == "hard"
    if peer == "ours":
        import gs_modules as gs

        return functools.partial(gs.gumbel_softmax, hard=hard)
    if peer == "textbook":
        from textbook import textbook

        return functools.partial(textbook, hard=hard)
    if peer == "categorical" and hard:
        return lambda key, logits, temperature: jax.nn.one_hot(
            jax.random.categorical(key, logits), logits.shape[-1], dtype=logits.dtype
        )
    if peer == "tfp" and not hard:
        from tensorflow_probability.substrates import jax as tfp

        law = tfp.distributions.RelaxedOneHotCategorical
        return lambda key, logits, temperature: law(temperature, logits=logits).sample(seed=key)
    if peer == "distrax" and hard:
        import distrax

        wrapped = distrax.straight_through_wrapper(distrax.OneHotCategorical)
        return lambda key, logits, temperature: wrapped(logits=logits).sample(seed=key)
    if peer == "numpyro" and not hard and SHAPES[shape][-1] == 2:
        from numpyro.distributions import RelaxedBernoulli

        def first_of_two(key, logits, temperature):
            law = RelaxedBernoulli(temperature, logits=logits[..., 0] - logits[..., 1])
            first = law.rsample(key)
            return jnp.stack([first, 1 - first], -1)

        return first_of_two
    return None


def of_jax(peer, shape, dtype, kind, passes):
    import jax
    import jax.numpy as jnp

    if peer == "tfp" and dtype != "float32":
        return None  # it refuses other logits beside its float32 noise
    sample = jax_call(peer, shape, kind, passes)
    if sample is None or (peer == "categorical" and passes == "forward+backward"):
        return None
    logits, weights = (jnp.asarray(array, dtype) for array in inputs(shape))
    if kind == "lookup":
        weights = jnp.resize(weights, (*logits.shape[:-1], COLUMNS))

    def forward(key, logits, temperature, weights):
        del weights
        return sample(key, logits, temperature)

    def both(key, logits, temperature, weights):
        drawn, pull_back = jax.vjp(lambda logits: sample(key, logits, temperature), logits)
        return drawn, pull_back(weights)[0]

    arguments = (jax.random.key(0), logits, jnp.asarray(TEMPERATURE, dtype), weights)
    began = time.perf_counter()
    lowered = jax.jit(both if passes == "forward+backward" else forward).lower(*arguments)
    program = lowered.compile()
    seconds = time.perf_counter() - began
    temporary = program.memory_analysis().temp_size_in_bytes
    return (
        lambda: jax.block_until_ready(program(*arguments)),
        {"compile_seconds": round(seconds, 3), "temporary_megabytes": round(temporary / 1e6, 1)},
    )


def of_torch(peer, shape, dtype, kind, passes):
    import torch
    from torch.distributions import RelaxedOneHotCategorical
    from torch.nn.functional import gumbel_softmax

    hard = kind != "soft"
    if passes.endswith("over keys"):
        return None
    if peer == "torch_distribution":
        if hard:
            return None
        temperature = torch.tensor(TEMPERATURE, dtype=getattr(torch, dtype))

        def sample(logits):
            law = RelaxedOneHotCategorical(temperature, logits=logits, validate_args=False)
            return law.rsample()
    else:

        def sample(logits):
            drawn = gumbel_softmax(logits, TEMPERATURE, hard=hard)
            return drawn @ rows if kind == "lookup" else drawn

    if peer == "torch_compiled":
        torch.compiler.reset()  # after eight shapes of one function it would compile no other
        sample = torch.compile(sample)
    logits, weights = (torch.from_numpy(a).to(getattr(torch, dtype)) for a in inputs(shape))
    rows = torch.from_numpy(table(shape)) if kind == "lookup" else None
    if kind == "lookup":
        weights = weights[..., :COLUMNS].contiguous()

    def forward():
        with torch.no_grad():
            sample(logits)

    def both():
        leaf = logits.requires_grad_()
        leaf.grad = None
        sample(leaf).backward(weights)

    run = forward if passes == "forward" else both
    began = time.perf_counter()
    run()
    return run, {"compile_seconds": round(time.perf_counter() - began, 3)}


def work(peer: str) -> None:
    """Answers each line of standard input: a cell, to be prepared; ``run``, to be timed."""
    prepare = of_torch if PEERS[peer] == "torch" else of_jax
    run, calls = None, 1
    for line in sys.stdin:
        if line.strip() == "versions":
            answer = {name: importlib.metadata.version(name) for name in PACKAGES[PEERS[peer]]}
        elif line.strip() == "run":
            began = time.perf_counter()
            for _ in range(calls):
                run()
            answer = (time.perf_counter() - began) / calls
        else:
            prepared = prepare(peer, *json.loads(line))
            answer = None
            if prepared is not None:
                run, answer = prepared
                run()
                began = time.perf_counter()
                run()
                calls = max(1, int(SECONDS_A_TURN / (time.perf_counter() - began)))
        print(json.dumps(answer), flush=True)


# --- the process that asks them -------------------------------------------------------------------


class Worker:
    """One peer in a process of its own."""

    def __init__(self, peer: str, python: str):
        self.process = subprocess.Popen(
            [python, __file__, "--worker", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **KEPT},
        )

    def ask(self, line: str):
        """The answer, or None once the worker has died: of packages that are not there."""
        try:
            print(line, file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            return None

    def close(self):
        self.process.kill()
        self.process.communicate()


def measure(cell, workers, rounds):
    """``{peer: figures}`` of one cell, with the seconds of a call in each round."""
    figures = {peer: worker.ask(json.dumps(cell)) for peer, worker in workers.items()}
    figures = {peer: {**found, "seconds": []} for peer, found in figures.items() if found}
    for _ in range(rounds):
        for peer, found in figures.items():
            found["seconds"].append(workers[peer].ask("run"))
    return figures


def summary(runs):
    """``{peer: figures}`` of one cell, measured with several sets of workers."""

    def median(peer, name):
        return statistics.median(run[peer][name] for run in runs)

    peers = [peer for peer in runs[0] if all(peer in run for run in runs)]
    seconds = {
        peer: statistics.median(second for run in runs for second in run[peer]["seconds"])
        for peer in peers
    }
    return {
        peer: {
            "milliseconds": round(1e3 * seconds[peer], 4),
            "by_ours": round(seconds[peer] / seconds["ours"], 2),
            **{name: median(peer, name) for name in runs[0][peer] if name != "seconds"},
        }
        for peer in peers
    }


def draw_figure(results: dict, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.28 * len(results) + 1))
    for peer in list(PEERS)[1:]:
        found = [
            (row, cell[peer]["by_ours"])
            for row, cell in enumerate(results.values())
            if peer in cell
        ]
        if found:
            rows, times = zip(*found, strict=True)
            axes.plot(times, rows, "o", label=peer, markersize=5)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_yticks(range(len(results)), results)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.set_xlabel("time of each peer by that of gs_modules")
    axes.legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=5, help="sets of workers")
    parser.add_argument("--rounds", type=int, default=3, help="of each set")
    parser.add_argument("--only", help="cells whose name contains this")
    parser.add_argument("--worker", choices=PEERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.worker:
        work(options.worker)
        return
    pythons = {
        "here": sys.executable,
        "torch": options.torch_python,
        "peers": options.peers_python,
    }
    cells = [cell for cell in CELLS if (options.only or "") in " ".join(cell)]
    runs, versions = {cell: [] for cell in cells}, {}
    for run in range(options.runs):
        workers = {peer: Worker(peer, pythons[place]) for peer, place in PEERS.items()}
        versions = {peer: worker.ask("versions") for peer, worker in workers.items()}
        versions = {peer: found for peer, found in versions.items() if found is not None}
        for cell in cells:
            present = {peer: workers[peer] for peer in versions}
            runs[cell].append(measure(cell, present, options.rounds))
            print(f"run {run + 1} of {options.runs}: {' '.join(cell)}", file=sys.stderr)
        for worker in workers.values():
            worker.close()
    if missing := [peer for peer in PEERS if peer not in versions]:
        print(f"left out, their packages are not there: {', '.join(missing)}")
    results = {" ".join(cell): summary(found) for cell, found in runs.items()}
    for name, found in results.items():
        shown = [f"{peer} {figures['by_ours']}" for peer, figures in found.items()]
        print(f"{name}: {found['ours']['milliseconds']} ms; {', '.join(shown[1:])}")
    if options.only:
        return  # a part is no record
    command = (
        "python benchmarks/peers.py --torch-python PYTHON_WITH_TORCH "
        f"--peers-python PYTHON_WITH_PEERS --runs {options.runs} --rounds {options.rounds}"
    )
    record("peers", command, versions=versions, results=results)
    draw_figure(results, IMAGES / "peers.png")


if __name__ == "__main__":
    main()
