"""Mutations of a config, whose verdict is known from how they were made."""

import random
import re

import pytest

from configs import CONFIGS, DIGITS, given, refusals
from gs_modules.train.config_file import ConfigError, load

pytestmark = pytest.mark.command

LINE = re.compile(r"( *)(\w+):(?: ([^#]*?))?(?: *#.*)?$")
INTEGER = ["ten", "1.5", "6e3", "true", "[1]", "null", "{a: 1}", "-1"]
NUMBER = ["ten", "true", "[1.0]", "null", ".nan", "-.inf", "-1", "'0.1'"]
NAME = ["5", "true", "[nnx]", "null", "zzz", "{a: 1}", "''"]
VALUES = {  # of every key of digits.yaml: wrong ones, and a right one with what it is
    "seed": (INTEGER, ("3", 3)),
    "framework": (NAME, ("linen", "linen")),
    "data.name": (NAME, ("'digits'", "digits")),
    "model.num_latents": ([*INTEGER, "0"], ("5", 5)),
    "model.num_classes": ([*INTEGER, "1"], ("0x10", 16)),
    "model.hidden": (["5", "abc", "null", "[a]", "[1.5]", "[0]", "{a: 1}"], ("[7]", (7,))),
    "estimator.kind": (NAME, ("pathwise", "pathwise")),
    "temperature.kind": ([*NAME, "linear", "constant"], ("exponential", "exponential")),
    "temperature.start": ([*NUMBER, "0", "0.1"], ("2", 2.0)),
    "temperature.end": ([*NUMBER, "0"], ("1E-1", 0.1)),
    "temperature.rate": ([*NUMBER, "0"], ("1e-5", 1e-5)),
    "optimizer.learning_rate": ([*NUMBER, "0"], ("3e-4", 3e-4)),
    "data.validation": ([wrong for wrong in INTEGER if wrong != "null"], ("5", 5)),
    "optimizer.decay": (NAME, ("none", "none")),
    "training.flip_probability": ([*NUMBER, "0.6"], ("1e-1", 0.1)),
    "training.steps": ([*INTEGER, "0"], ("10", 10)),
    "training.batch_size": ([*INTEGER, "0"], ("7", 7)),
    "training.evaluate_every": ([*INTEGER, "0"], ("300", 300)),
    "training.checkpoint_every": ([*INTEGER, "0", "500"], ("1800", 1800)),
}


def keys_of(text):
    """The (line, section, key) of each key and each section of a file like digits.yaml."""
    found, section = [], None
    for number, line in enumerate(text.splitlines()):
        if not line or line.startswith("#"):
            continue
        indent, key, value = LINE.fullmatch(line).groups()
        section = section if indent else None
        found.append((number, section, key))
        if value is None:
            section = key
    return found


def mutated(seed):
    """The text, the lines to blame (none: it is valid), and what must then differ from before."""
    draw = random.Random(seed)
    lines = DIGITS.splitlines()
    everywhere = keys_of(DIGITS)
    leaves = [place for place in everywhere if LINE.fullmatch(lines[place[0]])[3]]
    number, section, key = draw.choice(leaves)
    name = key if section is None else f"{section}.{key}"
    match seed % 6:
        case 0:  # deleted; digits.yaml holds the defaults, but for its validation part
            lines.pop(number)
            return lines, [], {name: None} if name == "data.validation" else {}
        case 1:  # misspelt
            number, section, key = draw.choice(everywhere)
            at = draw.randrange(len(key))
            lines[number] = lines[number].replace(key, key[:at] + key[at] + key[at:], 1)
            return lines, [number], {}
        case 2:  # doubled
            lines.insert(number, lines[number])
            return lines, [number + 1], {}
        case 3:  # swapped with a key of another section, or of its own
            other = draw.choice([place for place in leaves if place[2] != key])
            a, b = number, other[0]
            indents = [LINE.fullmatch(lines[n])[1] for n in (a, b)]
            lines[a], lines[b] = indents[0] + lines[b].strip(), indents[1] + lines[a].strip()
            return lines, [] if other[1] == section else [a, b], {}
        case 4:  # a value of another type, or one that cannot be
            wrong = draw.choice(VALUES[name][0])
            lines[number] = re.sub(r":.*", lambda _: f": {wrong}", lines[number])
            return lines, [number], {}
        case _:  # another value that can be
            written, value = VALUES[name][1]
            lines[number] = re.sub(r":.*", lambda _: f": {written}", lines[number])
            return lines, [], {name: value}


@pytest.mark.parametrize("seed", range(200))
def test_mutations_of_a_config(file, seed):
    lines, blamed, changed = mutated(seed)
    text = "\n".join(lines)
    if not blamed:
        config = given(file, text)
        expected = load(CONFIGS / "digits.yaml").model_dump()
        for name, value in changed.items():
            *section, key = name.split(".")
            (expected[section[0]] if section else expected)[key] = value
        assert config.model_dump() == expected
        return
    faults = refusals(file, text)
    at = {int(re.match(r"c\.yaml:(\d+): [\w.\[\]]+: \S", fault)[1]) for fault in faults}
    if "  kind: linear" in lines or "  kind: constant" in lines:
        # The kind is right; the keys of the old one below it are wrong.
        assert at and min(at) > blamed[0] + 1
    elif lines[blamed[0]].lstrip().startswith("kind:") and len(blamed) == 1:
        assert blamed[0] + 1 in at
    else:
        assert at == {line + 1 for line in blamed}
    assert not re.search(r"Input should|pydantic|https?:|\n", "".join(faults))


def test_the_mutations_reach_every_key():
    assert {f"{s}.{k}" if s else k for _, s, k in keys_of(DIGITS)} >= VALUES.keys()
    leaves = [k for n, _, k in keys_of(DIGITS) if LINE.fullmatch(DIGITS.splitlines()[n])[3]]
    assert len(leaves) == len(VALUES)


def test_damaged_bytes_never_give_another_exception(file):
    draw, accepted = random.Random(0), 0
    for _ in range(300):
        content = bytearray(DIGITS.encode())
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            content[at : at + draw.randint(0, 2)] = draw.choice(
                [
                    b"\xff",
                    b"\0",
                    b":",
                    b"\n",
                    b"\t",
                    b"[",
                    b"{",
                    b"&a ",
                    b"*a",
                    b"!",
                    b"- ",
                    b'"',
                    b"?",
                    b"9",
                ]
            )
        file.write_bytes(content)
        try:
            load(file)
            accepted += 1
        except ConfigError as refused:
            assert all(line.startswith("c.yaml:") for line in refused.lines)
    assert 0 < accepted < 300
