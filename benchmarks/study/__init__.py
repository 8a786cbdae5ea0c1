"""The strength of the attacks on real images: challenges with known truth, attacked at growing numbers of shadows.

    python -m benchmarks.study train cpu --out runs/study --minutes 9
    python -m benchmarks.study report cpu --out runs/study

`train` makes what is missing and stops when the minutes are up; the same command again goes on. `report` needs the
score files alone and writes `benchmarks/results/strength_cpu.json` and `.md`. Presets: `cpu` (half an hour on two
cores), `gpu` (the course's size, ResNet-18; hours of one GPU, throughput and profile first) and `tiny`.
Another `--seed` is another study, with other targets: to see again what was seen.
"""
