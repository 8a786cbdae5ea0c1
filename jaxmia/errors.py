"""Exceptions for invalid input, and safe display of text from files."""

_SHOWN = 500


class InputError(Exception):
    """A file, field or value from the user cannot be used.

    The message is shown to the user: it names the file, the field, the value and what is allowed, in one line
    for each problem. The command line prints it and exits with status 1, without a traceback.
    """


class UnreadableFile(InputError):
    """A file is missing, for example because another process has removed it meanwhile, or cannot be read."""


class DamagedFile(UnreadableFile):
    """A file is not of its format."""


class UnwritableFile(InputError):
    """A file cannot be written, for example because the disk is full."""


class InvalidFields(InputError):
    """A mapping contains unknown, missing or invalid fields; the message has one line for each."""


class MissingModels(InputError):
    """A sample lacks IN or OUT models that an attack needs; another attack may do without them."""


class NoPseudoTargets(InputError):
    """Shadow models cannot take the target's place: they are too few, depend on each other, or allow no such FPR."""


class InvalidScores(InputError):
    """An attack gives something other than one number for each sample."""


class NotConvertible(InputError):
    """JAX cannot compute a PyTorch network; PyTorch itself may train it."""


class UsageError(Exception):
    """The command line is wrong; printed like an `InputError`, with exit status 2."""


def printable(text: str) -> str:
    """Makes text from a file safe to show: short, on one line and without control or disguising characters."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def one_line(error: BaseException) -> str:
    """Formats an exception of foreign code as one line that is safe to show: its type and the start of its message."""
    message = next((line for line in map(str.strip, str(error).splitlines()) if line), "")
    return printable(": ".join(filter(None, (type(error).__name__, message))))


def visible(text: str) -> str:
    """Makes text safe for a terminal: keeps lines and escapes control and disguising characters."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
