"""Validation of mappings by pydantic models, and of arguments given in Python, with one line for each problem."""

import difflib
import operator
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from jaxmia.errors import InputError, InvalidFields

_UNION_BRANCHES = ("literal", "constrained", "function-", "int", "str", "float")
_PLAINLY = {
    "tuple_type": "must be a list, as in [1, 2]",
    "too_short": "must not be empty",
    "model_type": "must be a mapping of fields to values",
    "path_type": "must be a path",
    "invalid_key": "must be text to be a key",
}
"""Messages for error types that pydantic describes in terms of Python types."""

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


def parse_as(kind: type[Model], content: Mapping[str, Any], source: str) -> Model:
    """Validates a mapping as an instance of a pydantic model.

    Args:
        kind: Model class to validate against.
        content: Mapping of fields, nested as in the model.
        source: Origin of the content, such as a file name, for error messages.

    Raises:
        InvalidFields: The content is invalid.
    """
    with one_line_each(kind, source):
        return kind.model_validate(content)


@contextmanager
def one_line_each(kind: type[BaseModel], source: str) -> Iterator[None]:
    """Turns pydantic's error about an instance of a model into one with a line for each problem.

    Args:
        kind: Class of the model.
        source: Origin of the content, for error messages.

    Raises:
        InvalidFields: The content is invalid.
    """
    try:
        yield
    except ValidationError as error:
        raise InvalidFields("\n".join(_describe_errors(error, kind, source))) from error


def check_instance(value: object, kind: type[Value], name: str) -> Value:
    """Checks that an argument is an instance of a class, and returns it.

    Raises:
        InputError: It is not.

    >>> check_instance({"count": 3}, BaseModel, "recipe")
    Traceback (most recent call last):
    jaxmia.errors.InputError: recipe: is a dict, expected BaseModel
    """
    if not isinstance(value, kind):
        raise InputError(f"{name}: is a {type(value).__name__}, expected {kind.__name__}")
    return value


def check_integer(value: object, name: str, least: int, most: int) -> int:
    """Checks that an argument is an integer, of Python or NumPy, from `least` to `most`, and returns it as an `int`.

    Raises:
        InputError: It is not.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise InputError(f"{name}: {_shown(value)} is not an integer from {least} to {most}")
    return number


def _describe_errors(error: ValidationError, kind: type[BaseModel], source: str) -> list[str]:
    """Formats one line for each problem: file, field, value and what is allowed."""
    lines: dict[str, str] = {}
    problems = error.errors()
    with_elements = {problem["loc"][:-1] for problem in problems}
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in with_elements:
            continue  # pydantic counts only the valid elements of a list; the others have lines of their own
        location = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            *sections, key = location
            name = ".".join([*sections, key if key.isidentifier() else _shown(key)])
            lines.setdefault(name, f"{source}: {name}: unknown key{_suggestion(location, kind)}")
            continue
        # pydantic appends "[key]" to the location of a key of the wrong type.
        named = (part for part in location if part != "[key]" and not part.startswith(_UNION_BRANCHES))
        field = ".".join(part if part.isprintable() else _shown(part) for part in named)
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        message = message.replace("String should", "must")
        message = _PLAINLY.get(problem["type"], message)
        if problem["type"] == "missing":
            lines.setdefault(field, f"{source}: {field}: is missing")
        elif problem["type"] == "value_error":
            lines.setdefault(field, f"{source}: {field}.{message}" if field else f"{source}: {message}")
        elif field in lines:
            lines[field] += f", or {message}"
        else:
            lines[field] = f"{source}: {field}: {_shown(problem['input'])} {message}"
    return list(lines.values())


def _shown(value: Any) -> str:
    """Formats a value in one short line, however large or deeply nested it is."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 2, 80, 80
    try:
        return brief.repr(value)
    except ValueError:  # Python refuses to format integers of more than a few thousand digits
        return "a number with too many digits to show"


def _suggestion(location: list[str], section: type[BaseModel]) -> str:
    for part in location[:-1]:
        if not part.isdecimal():  # an index into a list of sections
            kind: Any = section.model_fields[part].annotation
            section = get_args(kind)[0] if get_origin(kind) is tuple else kind
    names = list(section.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed are {', '.join(names)}"
