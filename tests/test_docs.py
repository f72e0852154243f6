"""The pages of the documentation do what they say: their blocks run and their links lead somewhere.

Blocks fenced as `python` are executed from the top of a page to its end, as one program, and print
what a block fenced as `text` below them shows; those fenced as `py` are of other libraries and only
read.
"""

from pathlib import Path

import pytest
from snippets import linked_files, run, snippets

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_there_are_pages():
    assert PAGES


@of_every_page
def test_the_blocks_of_a_page_run_and_their_shapes_are_true(page):
    names = {}
    assert sum(run(snippet, names) for snippet in snippets(page)) > 0


@of_every_page
def test_the_blocks_of_other_libraries_are_python(page):
    for snippet in snippets(page, "py"):
        snippet.compiled()


@of_every_page
def test_every_file_that_a_page_links_to_is_there(page):
    for link in linked_files(page):
        assert link.exists(), link
