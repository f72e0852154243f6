"""Every example runs, in this process and for a few steps, and prints what it promises."""

import re
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FEW = {"categorical_vae.py": ["--epochs", "3"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [path.name, *FEW.get(path.name, ["--steps", "3"])])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    temperatures = [float(value) for value in re.findall(r"temperature ([0-9.]+)", printed)]
    assert len(temperatures) >= 2 and temperatures == sorted(temperatures, reverse=True)
    assert temperatures[-1] < temperatures[0]
    assert "nan" not in printed


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if "quickstart" in path.name], ids=lambda path: path.name
)
def test_a_quickstart_is_short(path):
    assert len(path.read_text().splitlines()) < 60
