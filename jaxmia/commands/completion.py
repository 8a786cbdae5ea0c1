"""The command that teaches a shell the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from jaxmia.overrides import refuse_overrides


@dataclass
class Completion:
    """Prints a script that completes commands and options, those of the configuration too.

    Example: jaxmia completion bash > ~/.local/share/bash-completion/completions/jaxmia
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Which shell."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Prints."""
        refuse_overrides(overrides)
        from jaxmia.cli import COMMANDS, with_all_options

        commands: Any = Union[  # noqa: UP007  made of a list
            tuple(Annotated[with_all_options(name), tyro.conf.subcommand(name)] for name in COMMANDS)
        ]
        tyro.cli(commands, prog="jaxmia", args=["--tyro-print-completion", self.shell])
