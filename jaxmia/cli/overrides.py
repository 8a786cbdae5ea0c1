"""Fields of the configuration that are set on the command line with `--section.field VALUE`."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml

from jaxmia.errors import InvalidFields, UsageError

if TYPE_CHECKING:
    from jaxmia.config import Config

_SOURCE = "command line"


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into a command's own and those that set fields, `--section.field` and its values."""
    own: list[str] = []
    overrides: list[str] = []
    current = own
    for argument in arguments:
        if argument.startswith("--") or argument == "-h":
            current = overrides if _is_override(argument) else own
        current.append(argument)
    return own, overrides


def configure(path: Path | None, overrides: Sequence[str]) -> "Config":
    """Loads a configuration from a YAML file, or the defaults without one, and applies overrides.

    Raises:
        InputError: The file is invalid; the message names every invalid field.
        UsageError: The file is valid, but an override is not or conflicts with the file.
    """
    from jaxmia.files import read_yaml

    return configure_content(read_yaml(path) if path else {}, str(path), overrides)


def configure_run(
    path: Path | None, overrides: Sequence[str], required: Collection[str] = ("public", "private", "target")
) -> "Config":
    """Loads a configuration as `configure` does, for a command that opens the files of the challenge.

    Their paths are checked here, before anything is imported that takes seconds.

    Raises:
        InputError: The file is invalid, a required field of the challenge is not set, or a file does not exist.
        UsageError: As in `configure`.
    """
    from jaxmia.data.sources import check_files

    config = configure(path, overrides)
    check_files(config.challenge, required)
    return config


def configure_content(content: Mapping[str, Any], source: str, overrides: Sequence[str]) -> "Config":
    """Builds a configuration from sections and applies overrides.

    Args:
        content: Mapping from section names to their fields.
        source: Origin of the content, for messages.
        overrides: Overrides as returned by `split_overrides`.

    Raises:
        InputError: The content is invalid; the message names every invalid field.
        UsageError: The content is valid, but an override is not or conflicts with it.
    """
    from jaxmia.config import parse_config

    given = _parse(overrides)
    if not given:
        return parse_config(content, source)
    try:
        return parse_config(_merged(content, given), _SOURCE)
    except InvalidFields as error:
        parse_config(content, source)  # errors in the file itself are reported as such
        raise UsageError(str(error)) from error


def refuse_overrides(overrides: Sequence[str]) -> None:
    """Rejects overrides, for commands that take no configuration.

    Raises:
        UsageError: There are overrides.
    """
    if overrides:
        raise UsageError(f"{overrides[0]}: this command takes no fields of the configuration")


def _is_override(argument: str) -> bool:
    name = argument.removeprefix("--").partition("=")[0].partition(".")
    return bool(name[1]) or name[0] == "seed"


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    """Parses overrides into nested sections; several values make a list. Values are YAML, except literal paths."""
    given: dict[str, Any] = {}
    position = 0
    while position < len(overrides):
        name, equals, value = overrides[position].removeprefix("--").partition("=")
        position += 1
        values = [value] if equals else []
        while position < len(overrides) and not overrides[position].startswith("--"):
            values.append(overrides[position])
            position += 1
        if not values:
            raise UsageError(f"--{name}: expected a value")
        *sections, field = parts = name.replace("-", "_").split(".")
        parsed = values if _is_path(parts) and values != ["null"] else [_value(name, text) for text in values]
        section = given
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise UsageError(f"--{name}: {part} already has a value")
        section[field] = parsed[0] if len(parsed) == 1 else parsed
    return given


def _is_path(names: Sequence[str]) -> bool:
    """Whether the named field holds a path."""
    from jaxmia.config import Config

    kind: Any = Config
    for name in names:
        field = getattr(kind, "model_fields", {}).get(name)
        kind = field.annotation if field else None
    return Path in (kind, *get_args(kind))


def _value(name: str, text: str) -> Any:
    if text in ("none", "None"):
        return None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--{name}: {text[:80]!r} is not a valid value") from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged
