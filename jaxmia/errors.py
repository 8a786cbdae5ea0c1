"""The exceptions that stand for "what you gave me is bad", and what of it may be shown."""

_SHOWN = 500


class InputError(Exception):
    """A file, field or value that a user gave cannot be used.

    The message is what the user reads: it names the file, the field, the value and what is allowed, in one line
    for each thing that is wrong. The command line prints it and exits with 1, without a traceback.
    """


class MissingModels(InputError):
    """A sample lacks the IN or the OUT models that an attack needs; another attack may do without them."""


class NotConvertible(InputError):
    """JAX cannot compute a PyTorch network; PyTorch itself may train it."""


class UsageError(Exception):
    """The command line itself is wrong; printed like an `InputError`, exit status 2."""


def printable(text: str) -> str:
    """Text from a file as it may be shown: short, on one line and without control or disguising characters."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def visible(text: str) -> str:
    """Text as a terminal may be given it: lines stay, control and disguising characters show as escapes."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
