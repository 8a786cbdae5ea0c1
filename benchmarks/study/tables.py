"""Formats the results of a study as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.study.presets import Preset
from benchmarks.study.strength import AUTO, FIGURES, REFERENCES, mean_of
from jaxmia.evaluation.intervals import Estimate
from jaxmia.machine.bench import memory

TITLES = {"auc": "AUC", "tpr@0.05": "TPR at 5 % FPR", "tpr@0.01": "TPR at 1 % FPR", "tpr@0.001": "TPR at 0.1 % FPR"}
RECIPE = ("epochs", "learning_rate", "weight_decay", "label_smoothing", "augment")
"""Fields of the recipe in which targets differ."""


def summary(preset: Preset, name: str, result: dict[str, Any]) -> list[str]:
    """Lines of the page on the strength of each attack.

    Args:
        preset: Preset of the study.
        name: Name of the report's files, without suffix.
        result: Content of the report's JSON file.
    """
    cases, made = result["cases"], result["origin"]
    replicas = len(next(iter(cases[0]["sizes"].values()))["replicas"][AUTO]["auc"])
    return [
        "# Strength on real images",
        "",
        f"{_counted(len(cases), 'challenge')} of {preset.public:,} public and {preset.private:,} private photographs,",
        f"half of them members; target and shadows are `{preset.architecture}`. Each target was trained in PyTorch by",
        "its own recipe, drawn with a seed that the attack does not read. Made by `benchmarks/study` at commit",
        f"{made['commit']} on {made['device']}, JAX {made['jax']}, PyTorch {made['torch']}, NumPy {made['numpy']}.",
        "",
        "There are two kinds of figures: on the private truth of each target, which is one model with few samples, and",
        f"on *replicas*, {replicas} further models per target, trained like shadows but by the target's recipe and on",
        "other members, and attacked in its place by the same shadows. Replicas have many more labels. No attack sees",
        "either. Masks of shadows and replicas depend only on their numbers, so they are the same for all targets.",
        "Samples without IN or without OUT shadows are left out. Figures are in percent, intervals at 95 %.",
        f"[Target by target]({name}_targets.md) lists every attack on the private truth.",
        "",
        *_recipes_table(cases),
        *_which(cases),
        *_auto_against(cases),
        *_against_published(cases),
        *_gain(cases, preset.compared),
        *_runs(result["runs"]),
        *throughput(result),
    ]


def _recipes_table(cases: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for number, case in enumerate(cases):
        true, first = case["recipe"], case["trials"][0]
        accuracy = case["accuracy"]
        found = f"IN {accuracy['accuracy_in']:.3f}, OUT {accuracy['accuracy_out']:.3f}"
        rows.append([str(number), "true", *_recipe(true), found])
        found = f"IN {first['accuracy_in']:.3f}, OUT {first['accuracy_out']:.3f}"
        rows.append([str(number), "matched", *_recipe(first["recipe"]), found])
    return [
        "## Recipes of the targets, and those that `jaxmia match` found",
        "",
        *table(
            ["target", "recipe", "epochs", "learning rate", "weight decay", "label smoothing", "augment", "accuracy"],
            rows,
        ),
        "",
    ]


def _recipe(recipe: dict[str, Any]) -> list[str]:
    augment = recipe["augment"]
    words = [f"crop {augment['crop']}"] * bool(augment["crop"]) + ["flip"] * augment["flip"]
    return [*(f"{recipe[name]:g}" for name in RECIPE[:4]), ", ".join(words) or "none"]


def _which(cases: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Every attack, on replicas of all targets",
        "",
        "Mean over targets of the mean over their replicas. Intervals include the chance in replicas, not in recipes.",
    ]
    for figure in FIGURES:
        sizes = _sizes(cases)
        rows = []
        for attack in _attacks(cases):
            found = [mean_of(_replicas(cases, models, attack, figure)) for models in sizes]
            rows.append([f"`{attack}`", *map(_percent, found)])
        lines += [
            "",
            f"### {TITLES[figure]}",
            "",
            *table(["attack", *(f"{models} shadows" for models in sizes)], rows),
        ]
    return lines


def _auto_against(cases: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for number, case in enumerate(cases):
        for models, cell in case["sizes"].items():
            replicas = {attack: np.array(found["tpr@0.05"]) for attack, found in cell["replicas"].items()}
            best = max(replicas, key=lambda attack: replicas[attack].mean())
            behind = mean_of([replicas[best] - replicas[AUTO]])
            shown = [_percent(mean_of([replicas[attack]])) for attack in (AUTO, *REFERENCES[:2])]
            verdict = "within noise" if behind.low <= 0 else "beyond noise"
            rows.append([number, models, f"`{cell['chosen']}`", *shown, f"`{best}`", f"{_percent(behind)}, {verdict}"])
    return [
        "",
        "## Attacks that `auto` selected, and their gap to the best",
        "",
        "TPR at 5 % FPR on replicas, target by target. The best is the attack with the highest mean on these replicas,",
        "which is biased upwards.",
        "",
        *table(["target", "shadows", "selected", "`auto`", *REFERENCES[:2], "best", "gap to the best"], rows),
    ]


def _against_published(cases: Sequence[dict[str, Any]]) -> list[str]:
    rows, weaker = [], []
    for models in _sizes(cases):
        for other in REFERENCES:
            gains = {}
            for figure in FIGURES:
                pairs = zip(
                    _replicas(cases, models, AUTO, figure), _replicas(cases, models, other, figure), strict=True
                )
                gains[figure] = mean_of([own - theirs for own, theirs in pairs])
                if gains[figure].high < 0:
                    weaker.append(f"{TITLES[figure]} against `{other}` at {models} shadows")
            rows.append([models, f"`{other}`", *map(_percent, gains.values())])
    return [
        "",
        "## `auto` against LiRA with fixed variance and RMIA, with the same shadows",
        "",
        "Paired gain of `auto` on replicas, in percentage points. The first two attacks are as published by their "
        "authors; the other two are their forms in this project.",
        "",
        *table(["shadows", "against", *TITLES.values()], rows),
        "",
        "`auto` is weaker beyond noise, in the mean over targets: " + ("; ".join(weaker) or "nowhere") + ".",
        "",
        "The same on the private truth of each target, TPR at 5 % FPR (paired bootstrap):",
        "",
        *table(
            ["target", "shadows", *(f"`{other}`" for other in REFERENCES)],
            [
                [number, models, *(_percent(Estimate(**cell["against"][other]["tpr@0.05"])) for other in REFERENCES)]
                for number, case in enumerate(cases)
                for models, cell in case["sizes"].items()
            ],
        ),
    ]


def _gain(cases: Sequence[dict[str, Any]], compared: int) -> list[str]:
    rows = []
    for number, case in enumerate(cases):
        for name, cell in case["recipes"].items():
            for attack in (AUTO, "lira-online-global"):
                target = cell["target"][attack]
                replicas = np.array(cell["replicas"][attack]["tpr@0.05"])
                base = case["recipes"].get("default", cell)["replicas"][attack]["tpr@0.05"]
                gain = (
                    ""
                    if base is cell["replicas"][attack]["tpr@0.05"]
                    else _percent(mean_of([replicas - np.array(base)]))
                )
                rows.append(
                    [
                        number,
                        name,
                        f"{cell['misalignment']:.1f}",
                        f"`{attack}`",
                        _percent(_estimate(target, "tpr@0.05")),
                        _percent(mean_of([replicas])),
                        gain,
                    ]
                )
    return [
        "",
        f"## Effect of the recipe, {compared} shadows",
        "",
        "Shadows of the target's `true` recipe, of the `matched` one, and of the `default` that the search started "
        "from. TPR at 5 % FPR; the gain is over `default`, paired over replicas. `misalignment` is the distance of the "
        "target's margins from the shadows' in standard deviations; beyond 4, `auto` aligns them.",
        "",
        *table(
            ["target", "shadows", "misalignment", "attack", "private truth", "replicas", "gain on replicas"],
            rows,
        ),
    ]


def _runs(runs: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{name}, {run['judged']} ({cell['samples']:,})",
            models,
            f"`{cell['chosen']}`",
            *(_percent(_estimate(cell["target"][attack], "tpr@0.05")) for attack in (AUTO, *REFERENCES[:2])),
            *(_percent(Estimate(**cell["against"][attack]["tpr@0.05"])) for attack in REFERENCES[:2]),
        ]
        for name, run in runs.items()
        for models, cell in run["sizes"].items()
    ]
    head = [
        "challenge",
        "shadows",
        "selected",
        "`auto`",
        *REFERENCES[:2],
        *(f"gain over {name}" for name in REFERENCES[:2]),
    ]
    return ["", "## Other challenges, TPR at 5 % FPR", "", *table(head, rows)] if rows else []


def throughput(result: dict[str, Any]) -> list[str]:
    """Lines on training throughput and on how the device's time is spent."""
    lines: list[str] = []
    if result["bench"]:
        rows = [_throughput_row(row) for row in result["bench"]["rows"]]
        head = ["method", "models at once", "images/s", "models/hour", "share of ceiling", "memory", "hours for 1,536"]
        epochs = result["bench"]["subject"]["shadow"]["epochs"]
        about = f"A model is trained on 14,000 samples for {epochs} epochs."
        lines += ["", "## Throughput", "", about, "", *table(head, rows)]
    if result["profile"]:
        profile = result["profile"]
        images = profile["images"]
        rows = [
            [kind, f"{1e6 * times['spent'] / images:.2f}", f"{1e6 * times['least'] / images:.2f}"]
            for kind, times in profile["kinds"].items()
        ]
        rows.append(["idle", f"{1e6 * (profile['seconds'] - profile['busy_seconds']) / images:.2f}", "0.00"])
        head = ["kind of work", "spent, us per image", "lower bound, us per image"]
        about = (
            "The lower bound assumes that kernels move 3.0 TB/s or multiply 798 TFLOP/s, whichever takes longer, as "
            "measured on one H100."
        )
        lines += ["", f"## Time spent by kind of work ({profile['plan']})", "", about, "", *table(head, rows)]
    return lines


def _throughput_row(row: dict[str, Any]) -> list[str]:
    if not row["images_per_second"]:
        return [row["name"], str(row["width"]), row["failure"], "", "", "", ""]
    return [
        row["name"],
        str(row["width"]),
        f"{row['images_per_second']:,.0f}",
        f"{row['models_per_hour']:,.1f}",
        f"{100 * row['share_of_ceiling']:.0f} %",
        memory(row["bytes"]),
        f"{1536 / row['models_per_hour']:.1f}",
    ]


def details(result: dict[str, Any]) -> list[str]:
    """Lines of the page on every attack against each target's private truth."""
    lines = ["# Strength on real images, target by target", "", "On the private truth, with 95 % bootstrap intervals."]
    for number, case in enumerate(result["cases"]):
        for models, cell in case["sizes"].items():
            rows = [
                [f"`{attack}`", *(_percent(_estimate(target, figure)) for figure in FIGURES)]
                for attack, target in cell["target"].items()
            ]
            title = f"## Target {number}, {models} shadows; `auto` selected `{cell['chosen']}`"
            lines += ["", title, "", *table(["attack", *TITLES.values()], rows)]
    return lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _sizes(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Numbers of shadows with which every target was attacked."""
    return [models for models in cases[0]["sizes"] if all(models in case["sizes"] for case in cases)]


def _attacks(cases: Sequence[dict[str, Any]]) -> list[str]:
    return list(next(iter(cases[0]["sizes"].values()))["replicas"])


def _replicas(cases: Sequence[dict[str, Any]], models: str, attack: str, figure: str) -> list[np.ndarray]:
    """Figure of an attack on every replica of every target, `[target][replica]`."""
    return [np.array(case["sizes"][models]["replicas"][attack][figure]) for case in cases]


def _estimate(target: dict[str, Any], figure: str) -> Estimate | None:
    """Reads a figure from `Figures.to_dict`; None if it could not be measured."""
    if figure == "auc":
        return Estimate(**target["auc"])
    found = next(entry for entry in target["tpr"] if f"tpr@{entry['fpr']:g}" == figure)["resampled"]
    return Estimate(**found) if found else None


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def points(found: Estimate) -> str:
    """A difference in points, with its interval."""
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
