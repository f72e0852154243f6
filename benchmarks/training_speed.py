"""Training speed: the command's own loop, its bare compiled steps, and an eager PyTorch loop.

    python benchmarks/training_speed.py configs/digits.yaml --torch-python ../torch/bin/python
    python benchmarks/training_speed.py configs/mnist.yaml --torch-python ... --data.root DIR

Each measurement is a process of its own with all cores; the three alternate, so that a shared
machine's noise meets all of them, and medians are compared. PyTorch (`pip install torch==2.13.0`)
may live in another environment: only `benchmarks/torch_vae.py` needs it. Writes
`benchmarks/results/training_speed_CONFIG.json`.

* trainer: steps per second of `gs-modules train` from the first step to the last, with metrics,
  progress, evaluation and checkpoints, without compilation, which `compile_seconds` shows.
* bare: the same compiled steps alone.
* torch: the same model, estimator and optimizer as an ordinary eager loop.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from recording import as_typed, record

STEPS = {"digits": (9000, 2000), "mnist": (2400, 700)}
"""Steps of this library and of torch in a process, by config: some seconds of each."""


def measure_trainer(config) -> dict[str, float]:
    from rich.console import Console

    from gs_modules.train import training
    from gs_modules.train.run_directory import RunDirectory

    seconds = {}

    class TimedTrainer(training.Trainer):
        def compile(self):
            began = time.perf_counter()
            super().compile()
            seconds["compile"] = time.perf_counter() - began

        def run(self, snapshot):
            began = time.perf_counter()
            yield from super().run(snapshot)  # comes back when the last step is written down
            seconds["run"] = time.perf_counter() - began

    training.Trainer = TimedTrainer
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        training.train(config, RunDirectory(Path(folder) / "run"), Console(file=nowhere))
    return {
        "steps_per_second": config.training.steps / seconds["run"],
        "compile_seconds": seconds["compile"],
    }


def measure_bare(config) -> dict[str, float]:
    import jax

    from gs_modules.train import data, models
    from gs_modules.train.loop import Trainer

    images = data.load(config.data.name, config.data.root, config.data.validation)
    trainer = Trainer(config, images, models.build(config, images.train.shape[1]))
    trainer.compile()
    begin = trainer.init()
    state, totals = begin.state, begin.totals
    every = trainer.chunk_steps
    rows = trainer.batches(0, every)

    def chunk(number, state, totals):
        ends = np.int32(number * every), np.int32((number + 1) * every)
        return trainer.compiled_chunk(state, totals, trainer.images, rows, *ends)[:2]

    state, totals = jax.block_until_ready(chunk(0, state, totals))
    began = time.perf_counter()
    rounds = max(1, config.training.steps // every)
    for number in range(1, rounds + 1):
        state, totals = chunk(number, state, totals)
    jax.block_until_ready(state)
    return {"steps_per_second": rounds * every / (time.perf_counter() - began)}


def torch_command(config, python: str, images: Path, scale: float, steps: int) -> list[str]:
    options = {
        "images": images,
        "scale": scale,
        "num-latents": config.model.num_latents,
        "num-classes": config.model.num_classes,
        "learning-rate": config.optimizer.learning_rate,
        "weight-decay": config.optimizer.weight_decay,
        "batch-size": config.training.batch_size,
        "flip-probability": config.training.flip_probability,
        "steps": steps,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    hidden = ["--hidden", *map(str, config.model.hidden)]
    return [python, str(Path(__file__).with_name("torch_vae.py")), *words, *hidden]


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--data.root", dest="data_root", help="overrides that of the config")
    parser.add_argument("--framework", default="nnx")
    parser.add_argument("--steps", type=int, help="of this library, per process")
    parser.add_argument("--torch-steps", type=int)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=("trainer", "bare"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    ours, torch = STEPS.get(options.config.stem, (3000, 1500))
    options.steps = options.steps or ours
    options.torch_steps = options.torch_steps or torch
    return options


def command_line(options: argparse.Namespace, words: list[str]) -> str:
    """What was typed, without the paths of a machine."""
    names = {
        str(options.config): f"configs/{options.config.name}",
        options.torch_python: "PYTHON_WITH_TORCH",
        options.data_root: "DIR",
    }
    return as_typed("training_speed.py", words, names)


def torch_version(python: str) -> str:
    code = "import torch; print(torch.__version__)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout


def main() -> None:
    options = arguments(sys.argv[1:])

    from gs_modules.train.config_file import load

    overrides = [("framework", options.framework), ("training.steps", str(options.steps))]
    overrides += [("data.root", options.data_root)] if options.data_root else []
    config = load(options.config, overrides)
    if options.measure:
        measure = {"trainer": measure_trainer, "bare": measure_bare}[options.measure]
        print(json.dumps(measure(config)))
        return

    from gs_modules.train import data

    images = data.load(config.data.name, config.data.root, config.data.validation)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images.train)
        ours = [sys.executable, *sys.argv, "--measure"]
        commands = {
            "trainer": [*ours, "trainer"],
            "bare": [*ours, "bare"],
            "torch": torch_command(
                config,
                options.torch_python,
                Path(folder) / "images.npy",
                images.scale,
                options.torch_steps,
            ),
        }
        measured = {name: [] for name in commands}
        for number in range(options.rounds):
            for name, command in commands.items():
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                measured[name].append(json.loads(output.splitlines()[-1]))
                print(f"round {number + 1} {name}: {measured[name][-1]}", flush=True)
    speed = {
        name: statistics.median(run["steps_per_second"] for run in runs)
        for name, runs in measured.items()
    }
    summary = {
        "median_steps_per_second": speed,
        "trainer_over_torch": speed["trainer"] / speed["torch"],
        "trainer_over_bare": speed["trainer"] / speed["bare"],
    }
    record(
        f"training_speed_{options.config.stem}",
        command_line(options, sys.argv[1:]),
        versions={
            "jax": importlib.metadata.version("jax"),
            "torch": torch_version(options.torch_python).strip(),
        },
        steps={"ours": options.steps, "torch": options.torch_steps},
        framework=options.framework,
        **summary,
        rounds=measured,
    )
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
