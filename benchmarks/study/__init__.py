"""Measures the strength of the attacks on real images: challenges with known truth, with growing numbers of shadows.

    python -m benchmarks.study train cpu --out runs/study --minutes 9
    python -m benchmarks.study report cpu --out runs/study

`train` computes what is missing and stops after the given minutes; the same command resumes. `report` needs only the
score files and writes `benchmarks/results/strength_cpu.json` and `.md`. Presets: `cpu` (half an hour on two cores),
`gpu` (the course's size with ResNet-18; hours on one GPU, with throughput and a profile first) and `tiny`.
Another `--seed` gives another study with other targets, to confirm a result.
"""
