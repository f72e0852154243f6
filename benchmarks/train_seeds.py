"""What a config reaches over frameworks and seeds, by the installed command itself.

    python benchmarks/train_seeds.py configs/digits.yaml --frameworks nnx linen haiku --seeds 0 1 2

Writes `benchmarks/results/train_CONFIG.json` and the curves, `docs/images/train_CONFIG.png`.
`seconds` is the wall time of the whole command: imports, compilation, evaluation and pictures.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib.figure import Figure
from recording import as_typed, record

ROOT = Path(__file__).parent.parent


def run(config: Path, framework: str, seed: int, folder: Path, flags: list[str]) -> dict:
    began = time.perf_counter()
    chosen = ["--run-dir", str(folder), "--framework", framework, "--seed", str(seed)]
    command = ["gs-modules", "train", str(config), *chosen, *flags]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [record for record in records if record["split"] == "train"]
    return {
        "framework": framework,
        "seed": seed,
        "seconds": round(seconds, 1),
        "steps_per_second": statistics.median(record["steps_per_second"] for record in train),
        "test_neg_elbo": records[-1]["neg_elbo"],
        "train_neg_elbo": {record["step"]: round(record["neg_elbo"], 3) for record in train},
    }


def draw(runs: list[dict], title: str, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for result in runs:
        curve = result["train_neg_elbo"]
        label = f"{result['framework']}, seed {result['seed']}"
        axes.plot(list(curve), list(curve.values()), label=label, linewidth=1)
    lowest = min(min(result["train_neg_elbo"].values()) for result in runs)
    axes.set_ylim(lowest - 1, lowest + 25)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training negative ELBO (nats per image)")
    axes.set_title(title)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--frameworks", nargs="+", default=["nnx"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data.root", dest="data_root", metavar="DIR")
    options, flags = parser.parse_known_args()
    flags += [f"--data.root={options.data_root}"] if options.data_root else []
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for framework, seed in itertools.product(options.frameworks, options.seeds):
            name = f"{framework}_{seed}"
            runs.append(run(options.config, framework, seed, Path(folder) / name, flags))
            shown = {key: value for key, value in runs[-1].items() if key != "train_neg_elbo"}
            print(shown, "last train", list(runs[-1]["train_neg_elbo"].values())[-1], flush=True)
    tests = [result["test_neg_elbo"] for result in runs]
    last = [list(result["train_neg_elbo"].values())[-1] for result in runs]
    summary = {
        "test_neg_elbo": {"mean": statistics.mean(tests), "largest": max(tests)},
        "last_train_neg_elbo": {"mean": statistics.mean(last), "largest": max(last)},
        "seconds": {"median": statistics.median(result["seconds"] for result in runs)},
    }
    names = {str(options.config): f"configs/{options.config.name}", options.data_root: "DIR"}
    command = as_typed("train_seeds.py", sys.argv[1:], names)
    record(f"train_{options.config.stem}", command, **summary, runs=runs)
    print(json.dumps(summary, indent=2))
    draw(runs, options.config.stem, ROOT / "docs" / "images" / f"train_{options.config.stem}.png")


if __name__ == "__main__":
    main()
