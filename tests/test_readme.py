"""The README does what it says: its snippets run, its comments are true, its commands are whole."""

from pathlib import Path

import pytest
from snippets import linked_files, run, snippets

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

README = Path(__file__).parent.parent / "README.md"
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
