"""YAML that is meant to harm, or is none: refused at once, without much memory."""

import time
import tracemalloc

import pytest

from configs import refusals
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.yaml_text import MAX_BYTES, YamlError, parse

pytestmark = pytest.mark.command

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
ANCHORS = "anchors (&) and aliases (*) are not allowed; write the value out"
TAGS = "tags (!) are not allowed; write the plain value"
MERGE = "merge keys (<<) are not allowed; write the keys out"
DEEP = "nested deeper than 20 levels"
RANGE = "a number or an escaped character out of range"
MANY = "more than 5000 keys and values, which no config has"
FIRST = "expected keys and values, such as 'seed: 0'"
HOSTILE = {
    "laughs": (LAUGHS, f"1: {ANCHORS}"),
    "alias": ("seed: 1\nmodel: *a", f"2: {ANCHORS}"),
    "anchored key": ("&a seed: 1", f"1: {ANCHORS}"),
    "anchored mapping": ("model: &a\n  num_latents: 1", f"1: {ANCHORS}"),
    "merge": ("seed: 1\n<<: {seed: 2}", f"2: {MERGE}"),
    "merge below": ("model:\n  <<: {num_latents: 1}", f"2: {MERGE}"),
    "python": ("seed: 1\nmodel: !!python/object/apply:os.system [ls]", f"2: {TAGS}"),
    "tag": ("seed: !x 1", f"1: {TAGS}"),
    "tag without a name": ("seed: ! 1", f"1: {TAGS}"),
    "harmless tag": ("seed: !!int 1", f"1: {TAGS}"),
    "tagged key": ("!!str seed: 1", f"1: {TAGS}"),
    "deep list": ("a: " + "[" * 50_000, f"1: {DEEP}"),
    "deep mapping": ("{a: " * 20_000, f"1: {DEEP}"),
    "deep block": ("\n".join(" " * i + "a:" for i in range(300)), f"21: {DEEP}"),
    "deep dashes": ("- " * 40_000, f"1: {DEEP}"),
    "deep keys": ("? " * 40_000, "1: a list or a mapping cannot be a key"),
    "list as a key": ("[a, b]: 1", "1: a list or a mapping cannot be a key"),
    "many keys": ("".join(f"a{i}: 1\n" for i in range(8_000)), f"2500: {MANY}"),
    "many elements": ("model: {hidden: [" + "1," * 40_000 + "]}", f"1: {MANY}"),
    "documents": ("seed: 1\n---\nseed: 2", "2: several documents, expected one"),
    "list": ("- seed: 1", f"1: {FIRST}"),
    "number": ("\n5", f"2: {FIRST}"),
    "text": ("x" * 90_000, f"1: {FIRST}"),
    "null character": ("seed: 1\nframework: \0", "2: character U+0000 is not allowed"),
    "escaped null": ('data: {root: "~\\0"}', "1: null characters are not allowed"),
    "no such character": ('seed: 1\nframework: "\\U99999999"', f"2: {RANGE}"),
    "half a character": ('seed: 1\n"\\ud800": 1', f"2: {RANGE}"),
    "long version": ("%YAML 1." + "9" * 5000 + "\n---\nseed: 1", f"1: {RANGE}"),
    "colons": ("seed: 1\na: b: c", "2: mapping values are not allowed here"),
    "tab": (
        "seed: 1\n\t- a",
        "2: while scanning for the next token: found character '\\t' that cannot start any token",
    ),
    "open": (
        "seed: [",
        "1: while parsing a flow node: expected the node content, but found '<stream end>'",
    ),
    "long": ("#" * (MAX_BYTES + 1), f" larger than {MAX_BYTES} bytes, which no config is"),
    "megabyte": ("a: [" + "[], " * 260_000, f" larger than {MAX_BYTES} bytes, which no config is"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_at_once(file, name):
    text, expected = HOSTILE[name]
    file.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert time.process_time() - start < 1
    assert refused.value.lines == [f"c.yaml:{expected}"]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"a{i}: 1\n" for i in range(2_490)),
        "model: {" + "".join(f"a{i}: 1, " for i in range(2_490)) + "}",
        "model: {hidden: [" + "0, " * 4_980 + "]}",
        "seed: 1\n" * 2_490,
        "a" * 999 + ": 1\n" + "temperature: {kind: " + "b" * 90_000 + "}",
        'framework: "' + "x " * 49_000 + '"',
    ],
)
def test_the_worst_within_the_limits_takes_less_than_a_second(file, text):
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert time.process_time() - start < 1
    assert all(line.startswith("c.yaml:") and len(line) < 250 for line in refused.value.lines)


def test_hostile_yaml_takes_no_memory(file):
    tracemalloc.start()
    for name in ("laughs", "deep mapping", "many elements", "megabyte"):
        file.write_text(HOSTILE[name][0])
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with pytest.raises(ConfigError):
            load(file)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 10_000_000, name
    tracemalloc.stop()


def test_twenty_levels_are_not_too_deep(file):
    def nested(levels):
        return "seed: " + "[" * (levels - 1) + "]" * (levels - 1)

    assert refusals(file, nested(20))[0].startswith("c.yaml:1: seed: expected an integer, got [")
    assert refusals(file, nested(21)) == [f"c.yaml:1: {DEEP}"]


def test_files_that_are_none(file, tmp_path):
    for path, reason in {
        "no.yaml": "cannot be read: No such file or directory",
        ".": "cannot be read: Is a directory",
        "a\0b": "cannot be read: embedded null byte",
    }.items():
        with pytest.raises(ConfigError) as refused:
            load(path)
        assert refused.value.lines == [f"{path}: {reason}"]
    for content in (b"seed: 1\nframework: \xff", "seed: 1\nframework: nnx".encode("utf-16")):
        file.write_bytes(content)
        with pytest.raises(ConfigError) as refused:
            load(file)
        line = 2 if content.startswith(b"seed") else 1
        assert refused.value.lines == [f"c.yaml:{line}: not UTF-8 text"]
    file.write_bytes(b"\xef\xbb\xbfseed: 1\r\nframework: linen\r\n")  # as Windows' editor saves
    assert (load(file).seed, load(file).framework) == (1, "linen")


def test_a_refused_document_says_its_line():
    with pytest.raises(YamlError) as refused:
        parse("a: 1\nb: *c")
    assert (refused.value.line, refused.value.reason) == (2, ANCHORS)
