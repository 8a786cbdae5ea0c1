"""Compiles the training program for a GPU that is not present, and counts the bytes and operations of its kernels.

    python -m benchmarks.program --architecture resnet18 --out benchmarks/results

needs `pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12` in jax's version, and no GPU. The counts are
those of the compiled program, in which each kernel reads its operands and writes its results once. They are a lower
bound on the time of a training step; nothing is timed.
"""
