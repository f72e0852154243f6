"""What the README says of recorded benchmarks is what was recorded; every benchmark is listed."""

import json
import re
from pathlib import Path

import pytest
from snippets import linked_files

pytestmark = pytest.mark.command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGE = ROOT / "benchmarks" / "README.md"


def recorded(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def row(beginning):
    """The figures of the line of the README's table that begins so, in order."""
    (cells,) = re.findall(rf"^\| {beginning}[^|]*\|(.*)$", README, re.MULTILINE)
    return re.findall(r"\d*\.\d+|\d+", cells)


def short(value, digits):
    return f"{value:.{digits}f}".removeprefix("0")


def test_trainings():
    digits, mnist = recorded("train_digits"), recorded("train_mnist")
    assert row("digits, test")[0] == short(digits["test_neg_elbo"]["mean"], 2)
    assert row("digits, test")[1] == f"{digits['seconds']['median']:.0f}"
    assert {(run["framework"], run["seed"]) for run in digits["runs"]} == {
        (framework, seed) for framework in ("nnx", "linen", "haiku") for seed in range(3)
    }
    assert row("MNIST, training")[0] == short(mnist["last_train_neg_elbo"]["mean"], 1)
    assert {run["seed"] for run in mnist["runs"]} == {0, 1, 2}


def test_the_annealing_that_a_search_found():
    tuned = recorded("tuned_digits")
    expected = [short(tuned["mean"][name], 2) for name in ("digits_tuned", "digits")]
    assert row("the same with annealing") == [*expected, short(tuned["standard_errors"], 1)]


def test_polynomial_programming():
    results = {(run["estimator"], run["p"]): run for run in recorded("polynomial")["results"]}

    def losses(estimator):
        return [short(results[estimator, p]["expected_loss"]["mean"], 4) for p in (1.5, 2, 3)]

    optimum = [short(0.45**p, 4) for p in (1.5, 2, 3)]
    expected = [*losses("reinmax"), *optimum, *losses("straight_through_gumbel")]
    assert row("polynomial programming") == expected


def test_kills():
    kills = recorded("kills")
    anywhere, amid = (kills[f"killed_{how}_continued_from"] for how in ("anywhere", "amid_a_save"))
    assert row("runs killed") == [str(len(anywhere) + len(amid))] * 2


def test_training_speed():
    ratios = [recorded(f"training_speed_{c}")["trainer_over_torch"] for c in ("digits", "mnist")]
    assert row("training steps")[:2] == [short(ratio, 2) for ratio in ratios]


def test_samples_are_faster_than_those_of_every_peer():
    records = [recorded(name)["results"] for name in ("peers", "peers_other_machine")]
    least = [
        min(
            peer["milliseconds"] / cell["ours"]["milliseconds"]
            for cell in cells.values()
            for name, peer in cell.items()
            if name != "ours"
        )
        for cells in records
    ]
    assert row("samples and gradients") == [short(int(ratio * 10) / 10, 1) for ratio in least]
    assert f"samples and gradients on CPU, {len(records[0])} cells" in README


def test_samples_on_a_gpu():
    large = [
        shape
        for shape in recorded("gpu_h200")["results"]
        if shape["dtype"] == "float32" and shape["classes"] <= 8192
        if 4 * shape["rows"] * shape["classes"] >= 262e6
    ]
    assert len(large) == 4

    def least_and_most(*works):
        ratios = [
            shape[f"{work} {other}, threefry2x32"]["microseconds"]
            / shape[f"{work} here, threefry2x32"]["microseconds"]
            for shape in large
            for work, other in works
        ]
        return [f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))]

    draws = [("soft", "textbook"), ("hard", "textbook"), ("index", "categorical")]
    gradients = [(f"{kind} forward + backward", "textbook") for kind in ("soft", "hard")]
    expected = least_and_most(*draws) + least_and_most(*gradients)
    assert row("float32 samples of 262 MB")[:4] == expected


def test_every_benchmark_is_listed_and_every_link_leads_somewhere():
    page = PAGE.read_text()
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert script.name in page, script.name
    for file in (ROOT / "benchmarks" / "results").iterdir():
        listed = re.findall(r"`([\w*]+\.(?:json|csv))`", page)
        assert any(Path(file.name).match(pattern) for pattern in listed), file.name
    for link in linked_files(PAGE):
        assert link.exists(), link
