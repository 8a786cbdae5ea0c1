"""The event log of a run, `log.jsonl`: one JSON object per line, from all jobs."""

import errno
import logging
import os
import platform
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxmia.files import json_text

logger = logging.getLogger(__name__)

# Links are not followed, and pipes do not block.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK


class EventLog:
    """Appends lines to a log; if it cannot be written, one warning is logged and the run continues.

    Args:
        path: Path of the log.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._works = True

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Appends one line with time (UTC), host and process; NaN becomes null."""
        who = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), "pid": os.getpid()}
        line = json_text({**who, "event": event, **fields}) + "\n"
        try:
            # On a local file system, a single write in append mode keeps the lines of several jobs apart.
            file = os.open(self._path, _FLAGS, 0o666)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError(errno.EINVAL, "is not a regular file")
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError as error:
            if self._works:
                logger.warning(f"{self._path}: cannot be written: {error.strerror}; the run continues without it")
            self._works = False
