"""What the search of `configs/tune_digits.yaml` is worth: its config against the one it began with.

    python benchmarks/tuned_digits.py

Trains `configs/digits.yaml` and `configs/digits_tuned.yaml` by the installed command, in turns over
the same seeds, and writes their test bounds, the difference and its standard error to
`benchmarks/results/tuned_digits.json`. The tuned values were chosen by validation images alone.
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

from recording import record
from train_seeds import ROOT, run

CONFIGS = ("digits", "digits_tuned")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    seeds = parser.parse_args().seeds
    bounds: dict[str, list[float]] = {name: [] for name in CONFIGS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for name in CONFIGS:
                config, place = ROOT / "configs" / f"{name}.yaml", Path(folder) / f"{name}_{seed}"
                bounds[name].append(run(config, "nnx", seed, place, [])["test_neg_elbo"])
                print(f"{name}, seed {seed}: {bounds[name][-1]:.3f} nats", flush=True)
    default, tuned = bounds.values()
    difference = statistics.mean(default) - statistics.mean(tuned)
    # As of two independent samples: that a seed is shared makes it no smaller here.
    variances = statistics.variance(default) + statistics.variance(tuned)
    standard_error = math.sqrt(variances / len(seeds))
    summary = {
        "mean": {name: statistics.mean(values) for name, values in bounds.items()},
        "difference": difference,
        "standard_error": standard_error,
        "standard_errors": difference / standard_error,
    }
    command = "python benchmarks/tuned_digits.py --seeds " + " ".join(map(str, seeds))
    record("tuned_digits", command, test_neg_elbo=bounds, **summary)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
