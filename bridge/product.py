"""Speed of the fastest matrix product in PyTorch, which with that in XLA bounds the speed of a processor."""

import json
import subprocess
import sys

import torch

from jaxmia.training.speed import SIZES, PeerError, fastest


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
    """Highest rate of square matrix products over several sizes."""

    def one(size: int) -> float:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def multiply() -> None:
            torch.matmul(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return 2 * size**3 / fastest(multiply)

    return max(map(one, SIZES["cpu" if device.type == "cpu" else "gpu"]))


if __name__ == "__main__":
    place = torch.device(sys.argv[1])
    print(json.dumps({name: _rate(place, getattr(torch, name)) for name in ("float32", "bfloat16")}))
