"""Configuration files, and YAML within bounds, as which they and options on the command line are read."""

import reprlib
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, get_loader, set_loader

from .._errors import in_a_line

MODE = "bounded yaml"  # of jsonargparse's parsers
MOST_VALUES = 100_000  # of a text, each alias counted as all that it stands for
TRUSTED = "trusted_modules"


class WrongValue(ArgumentTypeError, ValueError):
    """A value that an option does not take, of which argparse (by the one) and jsonargparse (by the other) tell why."""


class Parsed:
    """The type of an option whose value is a name or a table: of a configuration file, or YAML on the command line.

    Args:
        read: makes the value of the option of what was written.
        name: what `--help` calls the type.
    """

    def __init__(self, read: Callable[[Any], Any], name: str) -> None:
        self._read, self._name = read, name

    def __call__(self, value: Any) -> Any:
        try:
            return self._read(read_yaml(value) if isinstance(value, str) else value)
        except yaml.YAMLError as error:
            raise WrongValue(f"{reprlib.repr(value)} is not YAML: {in_a_line(error)}") from error
        except ValueError as error:
            raise WrongValue(str(error)) from error

    def __repr__(self) -> str:
        return self._name


def add_configuration(parser: ArgumentParser) -> None:
    """The options `--config` and `--trusted_modules`."""
    parser.add_argument(
        "--config",
        action=Configuration,
        help="YAML file with any of these options. It runs the code that it names: use only one that you trust",
    )
    parser.add_argument(
        f"--{TRUSTED}",
        type=Parsed(_packages, "packages"),
        metavar="PACKAGE,...",
        help="packages of which classes and functions may be named beside torch_trf, by --config or otherwise, such as"
        " torchvision,my_models; all that are installed by default. Only on the command line",
    )


def _packages(value: Any) -> list[str]:
    """The names of top-level packages, which commas part."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(f"{value!r} is no list of packages such as torchvision,my_models")
    return names


class Configuration(ActionConfigFile):
    """The option that names a configuration file; whatever is wrong with the file is told with its name."""

    def __call__(self, parser: Any, options: Any, values: Any, option_string: str | None = None) -> None:
        """Reads the file into the options.

        Raises:
            ValueError: a file that cannot be read, or that does not fit the options.
        """
        trusted = options.get(TRUSTED)
        try:
            super().__call__(parser, options, values, option_string)
        except Exception as error:  # a damaged file fails in many ways, of which jsonargparse makes a TypeError
            raise ValueError(f"{option_string} {values}: {in_a_line(error).removeprefix('TypeError: ')}") from error
        if options.get(TRUSTED) != trusted:  # which is for those who do not trust the file
            raise ValueError(f"{option_string} {values}: {TRUSTED} belongs on the command line")


def read_yaml(text: str) -> Any:
    """The value that a text stands for.

    Raises:
        YAMLError: a text that is no YAML, a key that stands twice in one table, or more values than anybody writes.

    Example:
        >>> read_yaml("{class_path: knn, init_args: {neighbors: 3}}")
        {'class_path': 'knn', 'init_args': {'neighbors': 3}}
    """
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if root is not None:
            _count(root, {})
        return get_loader("yaml")(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # of what is not the number or date that it says, or too deep
        raise yaml.YAMLError(in_a_line(error)) from error


def _count(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """How many values a node holds, itself among them; those of a node that is met again are known."""
    if node in counts:
        if counts[node] == 0:
            raise yaml.YAMLError(f"{_line(node)}: an alias stands for what it lies in")
        return counts[node]
    counts[node] = 0  # while it is counted
    inner = []
    if isinstance(node, yaml.MappingNode):
        [(key, times)] = Counter(key.value for key, _ in node.value if _is_text(key)).most_common(1) or [("", 0)]
        if times > 1:
            raise yaml.YAMLError(f"{_line(node)}: {key!r} stands twice in one table")
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    counts[node] = 1 + sum(_count(each, counts) for each in inner)
    if counts[node] > MOST_VALUES:
        raise yaml.YAMLError(f"{_line(node)}: more than {MOST_VALUES:,} values")
    return counts[node]


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


set_loader(MODE, read_yaml, exceptions=(yaml.YAMLError,))
