"""Speed of the fastest matrix product in PyTorch, which with that in XLA bounds the speed of a processor."""

import json
import subprocess
import sys

import torch

from jaxmia.training.speed import SIZES, PeerError, fastest

_SECONDS = 0.3
"""Time for the products of each size. On a processor without bfloat16 a large one takes PyTorch minutes."""


def product_flops_per_second(device: str) -> dict[str, float]:
    """Floating-point operations per second by precision, measured in a separate process.

    Raises:
        PeerError: The process has crashed.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bridge.product", device], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PeerError(f"crashed: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return json.loads(done.stdout)


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """Highest rate of square matrix products over several sizes, on a CPU up to the first that is slow."""
    highest = 0.0
    for size in SIZES["cpu" if device.type == "cpu" else "gpu"]:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> None:
            torch.matmul(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize()

        seconds = fastest(multiply, _SECONDS)
        highest = max(highest, 2 * size**3 / seconds)
        if device.type == "cpu" and seconds > _SECONDS:
            break
    return highest


if __name__ == "__main__":
    place = torch.device(sys.argv[1])
    print(json.dumps({name: _rate(place, getattr(torch, name)) for name in ("float32", "bfloat16")}))
