"""What a GPU would run: the training program compiled for one without having one, and what it moves and multiplies.

    python -m benchmarks.program --architecture resnet18 --out benchmarks/results

needs `pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12` in jax's version, and no GPU. The counts are
those of the compiled program: each operation's operands and results are read and written once. They bound the time of a
training step from below; nothing is timed.
"""
