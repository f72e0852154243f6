"""The README does what it says: its snippets run, its comments are true, its commands are whole."""

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_and_its_shapes_are_true(number):
    """A comment such as ``# (32, 8, 16)`` is the shape of the name that the line assigns first."""
    names = {}
    exec(SNIPPETS[number], names)
    promised = re.findall(r"^(\w+)\b[^#\n]*=[^#\n]*#.*?(\(\d[\d, ]*\))", SNIPPETS[number], re.M)
    assert promised
    for name, shape in promised:
        assert str(names[name].shape) == shape


def test_there_is_a_snippet_for_each_framework():
    for framework in ("nnx", "linen", "haiku"):
        assert any(f"gs_modules.{framework} import" in snippet for snippet in SNIPPETS)


def test_two_commands_set_everything_up_from_a_fresh_clone():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    begin = "python3 -m venv .venv && .venv/bin/pip install"
    assert len(commands) == 2 and all(command.startswith(begin) for command in commands)
    assert commands[0].endswith("gs-modules train configs/digits.yaml")
    assert commands[1].endswith("-m pytest")
    assert "uv run" in README


def test_every_file_that_the_readme_links_to_is_there():
    root = Path(__file__).parent.parent
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    links += re.findall(r'src="(?!http)([^"]+)"', README)
    assert links
    for link in links:
        assert (root / link).exists(), link
