"""Address, task and key for submissions, from the command line, the environment or a file `.env`."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from jaxmia.errors import InputError, printable

URL, KEY, TASK = "JAXMIA_LEADERBOARD_URL", "JAXMIA_API_KEY", "JAXMIA_TASK"
DEFAULT_TASK = "01-mia"

_MAX_ENV_BYTES = 2**20
# Quotes and backslashes are changed by escaping, after which a key could not be recognised and removed from a text.
_KEY = re.compile(r"""[^\x00-\x20"'\\\x7f-\U0010ffff]+""")
_HOST = re.compile(r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+)(:|/|$)")
_TASK = re.compile(r"[A-Za-z0-9._-]+")
_ENV_LINE = re.compile(r"""(?:export\s+)?(JAXMIA_\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']*))(?:\s+#.*)?""")


@dataclass(frozen=True)
class Address:
    """Address to which submissions are sent.

    Attributes:
        url: Base address; the file goes to `{url}/submit/{task}`.
        task: Name of the task.
        url_name: Name of the setting or option that gave the address, for messages.
        task_name: The same for the task.

    Raises:
        InputError: A setting is missing or malformed.
    """

    url: str
    task: str
    url_name: str = field(default=URL, kw_only=True, repr=False, compare=False)
    task_name: str = field(default=TASK, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url, self.url_name))
        if not _TASK.fullmatch(self.task) or self.task.strip(".") == "":
            raise InputError(f"{self.task_name}: {self.task!r} is not a task, expected letters, digits, '.', '_', '-'")

    @property
    def endpoint(self) -> str:
        """Address to which the file is uploaded."""
        return f"{self.url}/submit/{self.task}"


@dataclass(frozen=True)
class Leaderboard(Address):
    """Address to which submissions are sent, and the key of the team.

    Attributes:
        key: The team's key; `repr`, logs and dumps show asterisks instead.

    Raises:
        InputError: A setting is missing or malformed. The message never quotes the key.
    """

    key: SecretStr

    def __post_init__(self) -> None:
        key = self.key.get_secret_value()
        if not key:
            raise InputError(f"{KEY} is not set; set it in the environment or in a file .env, one line {KEY}=...")
        if not _KEY.fullmatch(key):
            raise InputError(f"{KEY}: contains a space, quote, backslash or character outside ASCII; copy it again")
        if "://" in key:
            raise InputError(f"{KEY}: contains an address, which belongs in {URL}")
        for name, value in ((self.url_name, self.url), (self.task_name, self.task)):
            if key in value:
                raise InputError(f"{name}: contains the key, which belongs in {KEY} alone")
        super().__post_init__()


@dataclass(frozen=True)
class Settings:
    """Settings as found, before they are checked; empty if they are not set.

    Attributes:
        url: Base address.
        task: Name of the task.
        key: The team's key.
        url_name: Name of the setting or option that gave the address, for messages.
        task_name: The same for the task.
    """

    url: str
    task: str
    key: SecretStr
    url_name: str = field(default=URL, kw_only=True)
    task_name: str = field(default=TASK, kw_only=True)

    @property
    def missing(self) -> list[str]:
        """Names of the required settings that are not set."""
        return [name for name, value in ((URL, self.url), (KEY, self.key.get_secret_value())) if not value]

    def leaderboard(self) -> Leaderboard:
        """Checks the settings and returns the leaderboard.

        Raises:
            InputError: A setting is missing or malformed.
        """
        return Leaderboard(self.url, self.task, self.key, url_name=self.url_name, task_name=self.task_name)

    def address(self) -> Address | None:
        """Address to which submissions would be sent, if it is set; needs no key.

        Raises:
            InputError: A setting is malformed.
        """
        if not self.missing:
            return self.leaderboard()
        return Address(self.url, self.task, url_name=self.url_name, task_name=self.task_name) if self.url else None


def find_settings(
    url: str | None = None,
    task: str | None = None,
    environ: Mapping[str, str] = os.environ,
    env_file: Path = Path(".env"),
) -> Settings:
    """Finds the settings; an argument takes precedence over the environment, and the environment over the file.

    There is no argument for the key, since other users of a machine can read command lines. Key and address must come
    from the same source unless the address is an argument: the file is in the working directory, and whoever wrote it
    must not decide where a key from the environment is sent.

    Args:
        url: Base address; by default `JAXMIA_LEADERBOARD_URL`.
        task: Task; by default `JAXMIA_TASK`, or else `01-mia`.
        environ: Environment variables.
        env_file: File of lines `NAME=value`, of which those named `JAXMIA_...` are read; it need not exist.

    Raises:
        InputError: Key and address come from different sources, or the file cannot be read.
    """
    sources = {"the environment": environ, printable(str(env_file)): _read_env_file(env_file)}

    def find(name: str) -> tuple[str, str]:
        return next(((source, values[name]) for source, values in sources.items() if values.get(name)), ("", ""))

    (url_source, found_url), (key_source, key) = find(URL), find(KEY)
    if not url and url_source and key_source and url_source != key_source:
        raise InputError(
            f"{URL} comes from {url_source}, but {KEY} from {key_source}; "
            "set both in one of them, or name the address with --url, so that the key goes where you mean it to"
        )
    return Settings(
        url or found_url,
        task or find(TASK)[1] or DEFAULT_TASK,
        SecretStr(key),
        url_name="--url" if url else URL,
        task_name="--task" if task else TASK,
    )


def _checked_url(url: str, name: str) -> str:
    if not url:
        raise InputError(f"{URL} is not set; set it to the leaderboard's address, https://...")
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        named = False
    # Not quoted if it may contain a password or be a key in the wrong place.
    shown = f"{url!r} " if ("://" in url or _HOST.match(url)) and "@" not in url else ""
    if not named or not url.isprintable() or " " in url:
        raise InputError(f"{name}: {shown}is not an address, expected https://host or https://host:port/path")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(f"{name}: has a user, a query or a fragment; expected https://host or https://host:port/path")
    return url.rstrip("/")


def _read_env_file(path: Path) -> dict[str, str]:
    settings: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, _env_text(path).splitlines()), 1):
        if not line.removeprefix("export").lstrip().startswith("JAXMIA_"):
            continue
        match = _ENV_LINE.fullmatch(line)
        # The line is not quoted, since it may contain the key.
        if not match:
            raise InputError(f"{path}: line {number}: expected NAME=value, with quotes around a value that has spaces")
        name, *values = match.groups()
        if name in settings:
            raise InputError(f"{path}: line {number}: {name} is set a second time")
        settings[name] = next((value for value in values if value is not None), "")
    return settings


def _env_text(path: Path) -> str:
    """Text of the file; empty if it does not exist, or is a directory, such as a virtual environment named `.env`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            content = file.read(_MAX_ENV_BYTES + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_ENV_BYTES:
        raise InputError(f"{path}: is larger than {_MAX_ENV_BYTES:,} bytes")
    return content.decode("utf-8-sig", "replace")
