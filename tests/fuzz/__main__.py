"""Fuzzes each target for so many seconds of processor time, and prints how many inputs were tried and what failed.

python -m tests.fuzz SECONDS [pytest -k expression]
"""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent
_INPUTS_A_ROUND = 500
"""Inputs of one process; a target's time is filled with as many processes as it takes."""
_MOST_FAILURES = 3


def targets(chosen: str) -> list[str]:
    """The tests that draw inputs, parametrised ones one by one."""
    listed = _pytest("--collect-only", "-q", "-k", chosen, str(_FOLDER)).stdout
    return [line for line in listed.splitlines() if "::" in line and _draws_inputs(line)]


def fuzz(target: str, seconds: float) -> tuple[int, list[str]]:
    """Inputs tried in that time, and the output of each failed round, whose inputs do not count."""
    inputs, failures, end = 0, [], _processor_seconds() + seconds
    while _processor_seconds() < end and len(failures) < _MOST_FAILURES:
        done = _pytest("-q", target, JAXMIA_FUZZ=str(_INPUTS_A_ROUND))
        if done.returncode:
            failures.append(done.stdout)
        else:
            inputs += _INPUTS_A_ROUND
    return inputs, failures


def _processor_seconds() -> float:
    """Processor time of all rounds so far: other work on the machine does not shorten what a target gets."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _draws_inputs(target: str) -> bool:
    module, name = target.split("::")
    source = (_FOLDER / Path(module).name).read_text()
    test = re.search(rf"def {re.escape(name.partition('[')[0])}\(.*?(?=^def |\Z)", source, re.DOTALL | re.MULTILINE)
    return test is not None and "@fuzzing" in test[0]


def _pytest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "--timeout=0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def main(seconds: float, chosen: str = "") -> None:
    for target in targets(chosen):
        inputs, failures = fuzz(target, seconds)
        print(f"{target}: {inputs} inputs, {len(failures)} failed rounds", flush=True)
        for failure in failures:
            print(failure, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
