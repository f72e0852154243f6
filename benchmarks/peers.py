"""The speed of a sample and of its gradient, here and in what people use instead.

    python benchmarks/peers.py --torch-python PYTHON_WITH_TORCH --peers-python PYTHON_WITH_PEERS

Every peer is a worker process of its own (`peer_worker.py`); for each cell, the workers that know
it are called in turn, round after round, so that the noise of a shared machine meets all alike. The
first call of a turn is not counted, since the others have emptied the caches. Where the arrays of a
process happen to lie can double its times, so several sets of workers do all of it. Prints a table
and writes `benchmarks/results/peers.json`, the median milliseconds of a call, the time of each peer
by ours, the megabytes of temporaries and the seconds of compilation, and `docs/images/peers.png`.
Besides soft and hard samples, a lookup is `gumbel_lookup`, elsewhere a hard sample times the table,
or its row where a peer draws an index; over keys, a program of jax is mapped over 8 keys and as
many parts of the logits, or over a key for each row; the keys are split beforehand. `ours` and
`textbook` need this library alone, `torch` needs torch, the others tensorflow-probability, distrax
and numpyro with a jax on which they import; a peer whose packages are missing is left out, by name.

* textbook: uniform, two logarithms with an epsilon, softmax, `stop_gradient(one_hot - y) + y`.
* categorical: `jax.random.categorical` and a one-hot of it; of hard samples forward alone.
* torch_function, torch_compiled, torch_distribution: `torch.nn.functional.gumbel_softmax`, the same
  by `torch.compile`, and `RelaxedOneHotCategorical.rsample`.
* tfp, distrax: `RelaxedOneHotCategorical`, and `straight_through_wrapper(OneHotCategorical)`.
* numpyro: `RelaxedBernoulli`, of two classes as log-odds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from peer_worker import PEERS, SHAPES
from recording import record

IMAGES = Path(__file__).parent.parent / "docs" / "images"
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
    (shape, "float32", kind, passes)
    for passes, shapes in {
        "forward over keys": ("4096x320", "65536x16", "1024x8192"),
        "forward over a key a row": ("128x20x10", "65536x2", "65536x16"),
    }.items()
    for shape in shapes
    for kind in ("soft", "hard")
]
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_ARENA_MAX": "1",
}
"""For glibc to keep freed memory, in one arena, since those of threads are handed back whole. By
default it is chance which worker hands an array back after each call, and then pays as much for its
pages at the next as for the sample itself."""


class Worker:
    """One peer in a process of its own."""

    def __init__(self, peer: str, python: str):
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("peer_worker.py"), peer],
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
    return parser.parse_args()


def main() -> None:
    options = arguments()
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
