"""The README does what it says: its snippets run, its comments are true, its commands are whole."""

import json
import re
import runpy
from pathlib import Path

import pytest
from snippets import linked_files, run, snippets

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SNIPPETS = snippets(README)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_and_its_shapes_are_true(number):
    assert run(SNIPPETS[number], {}) > 0


def test_there_is_a_snippet_for_each_framework():
    for framework in ("nnx", "linen", "haiku"):
        assert any(f"gs_modules.{framework} import" in snippet.code for snippet in SNIPPETS)


def test_two_commands_set_everything_up_from_a_fresh_clone():
    text = README.read_text()
    commands = [line for line in text.splitlines() if line.startswith("python3 -m venv")]
    begin = "python3 -m venv .venv && .venv/bin/pip install"
    assert len(commands) == 2 and all(command.startswith(begin) for command in commands)
    assert commands[0].endswith("gs-modules train configs/digits.yaml")
    assert commands[1].endswith("-m pytest")
    assert "uv run" in text


def test_every_file_that_the_readme_links_to_is_there():
    links = linked_files(README)
    assert links
    for link in links:
        assert link.exists(), link


@pytest.mark.parametrize("config", ["digits", "mnist"])
def test_the_commands_of_the_speed_figures_are_those_that_gave_them(config):
    speed = runpy.run_path(str(ROOT / "benchmarks" / "training_speed.py"))
    measured = json.loads((ROOT / f"benchmarks/results/training_speed_{config}.json").read_text())
    pattern = rf"`python benchmarks/training_speed\.py (configs/{config}\.yaml .*)`"
    (written,) = re.findall(pattern, (ROOT / "benchmarks" / "README.md").read_text())
    for words in (written.split(), measured["command"].split()[2:]):
        options = speed["arguments"](words)
        assert (options.steps, options.torch_steps) == tuple(measured["steps"].values())
        assert options.torch_python == "PYTHON_WITH_TORCH"


def test_a_speed_figure_names_its_command_without_the_paths_of_a_machine():
    speed = runpy.run_path(str(ROOT / "benchmarks" / "training_speed.py"))
    words = "/home/me/configs/mnist.yaml --data.root=/data --torch-python /t/python --rounds 3"
    assert speed["command_line"](speed["arguments"](words.split()), words.split()) == (
        "python benchmarks/training_speed.py configs/mnist.yaml --data.root=DIR "
        "--torch-python PYTHON_WITH_TORCH --rounds 3"
    )
