"""Models of Flax's own examples, written anew at small size: a choice goes into each in five lines.

Beside each plain model lies the same file with the choice put in, its training step included. The
Linen models are trained as Flax's guide does it for BatchNorm, where a model may hold collections
besides its parameters: the clock is then one more, and no line changes for it.
"""

import difflib
import inspect

import cnn
import cnn_gated
import pytest
import transformer
import transformer_gated
import vae
import vae_gated


def lines(module):
    """Without the module's docstring, of one line, and without blank lines."""
    return [line for line in inspect.getsource(module).splitlines()[1:] if line.strip()]


@pytest.mark.parametrize(
    ("plain", "gated"),
    [(cnn, cnn_gated), (vae, vae_gated), (transformer, transformer_gated)],
    ids=lambda module: module.__name__,
)
def test_a_choice_goes_in_with_five_changed_lines(plain, gated):
    """Imports count; replacing m lines by n counts as the larger of the two."""
    matcher = difflib.SequenceMatcher(None, lines(plain), lines(gated), autojunk=False)
    changes = [opcode for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
    assert 0 < sum(max(i2 - i1, j2 - j1) for _, i1, i2, j1, j2 in changes) <= 5, changes
