"""The words after ``gs-modules``, read: options of a command, and keys of its config."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from gs_modules.train.config import config_options
from gs_modules.train.parser import build_parser
from gs_modules.train.spelling import nearest, unknown
from gs_modules.train.tune.config import tune_options

Overrides = list[tuple[str, str]]
"""Dotted keys of a config and their values as YAML, in the order of the flags."""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Overrides]:
    """The options of a command; a wrong one ends the process with exit code 2."""
    parser, commands = build_parser()
    words = _joined(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in commands:
        parser.error(unknown("command", words[0], commands))
    parsed, rest = parser.parse_known_args(words)
    command = commands[parsed.command]
    if parsed.command == "train":
        _check_processes(command, parsed)
    given = vars(parsed)
    keys = _keys(parsed.command)
    overrides = [(key, given.pop(key)) for key in keys if key in given]
    own = [name.replace("_", "-") for name in given.keys() - {"command", "config"}]
    # Flags that no key has go to the config too, which refuses them with the nearest name.
    unknown_flags = [word.removeprefix("--") for word in rest if word.startswith("--")]
    if rest and not unknown_flags:
        command.error(f"unexpected argument: {rest[0]}")
    further = [(name, value) for name, _, value in (word.partition("=") for word in unknown_flags)]
    _check_unknown(command, parsed.command, [name for name, _ in further], keys, own)
    return argparse.Namespace(**given), overrides + further


def _keys(command: str) -> list[str]:
    """The dotted keys that a command takes as flags."""
    if command != "tune":
        return [*config_options()]
    return [*tune_options(), *(f"search.{key}" for key in config_options())]


def _check_unknown(
    command: argparse.ArgumentParser,
    command_name: str,
    names: Sequence[str],
    keys: Sequence[str],
    own: Sequence[str],
) -> None:
    """Ends the process for those unknown flags that are not for a config to refuse.

    Args:
        command: the parser of the command.
        command_name: its name.
        names: of the unknown flags.
        keys: of a config.
        own: flags of the command that are not of its config.
    """
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for name in sections.intersection(names):
        command.error(f"--{name} is a section; write --{name}.KEY, see --help")
    own = [*own, *(key for key in keys if key.startswith("study."))]
    has_config = command_name != "evaluate"
    for name in names:
        if (meant := nearest(name, [*keys, *own] if has_config else own)) in own:
            command.error(f"unknown flag --{name}; did you mean --{meant}?")
        if not has_config:
            command.error(f"unknown flag --{name}: evaluate takes the config that the run has")


def _check_processes(train: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    address, count, index = parsed.coordinator_address, parsed.num_processes, parsed.process_id
    if address in (None, "auto") and (count, index) != (None, None):
        train.error("--num-processes and --process-id need --coordinator-address HOST:PORT")
    if address in (None, "auto"):
        return
    if not re.fullmatch(r".+:\d+", address):
        train.error(f"--coordinator-address: expected HOST:PORT or auto, got {address!r}")
    if count is None or index is None:
        train.error(f"--coordinator-address {address} needs --num-processes and --process-id")
    if index >= count:
        train.error(f"--process-id: must be less than --num-processes {count}, got {index}")


def _joined(words: Sequence[str]) -> list[str]:
    """`--key -1e-3` as `--key=-1e-3`: argparse takes -0.001 alone for a number."""
    joined: list[str] = []
    for word in words:
        if joined and re.fullmatch(r"--[^=]+", joined[-1]) and re.match(r"-[.0-9]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
