from pathlib import Path

import numpy as np

from jaxmia.config import AttackConfig
from jaxmia.pipeline.scoring import score
from jaxmia.report.results import read_results
from jaxmia.report.subject import describe_subject
from tests.report.conftest import change_metrics


def subject_of(out: Path) -> dict[str, str]:
    return dict(describe_subject(read_results(out)))


def test_the_head_says_what_was_audited_and_with_what(run: tuple[Path, np.ndarray]):
    out, members = run
    (out / "config.yaml").write_text(
        "challenge: {public: pub.pt, private: priv.pt, target: model.pt, architecture: resnet18}\n"
        "shadow: {architecture: cnn, epochs: 7}\n"
    )
    subject = subject_of(out)
    assert list(subject) == ["Target", "Data", "Shadow models", "Attack", "Epsilon"]
    assert subject["Target"] == "model.pt, network resnet18"
    inside = int(members[:200].sum())
    assert subject["Data"] == (
        f"pub.pt and priv.pt: 400 samples of 3 classes: 200 public ({inside} members, {200 - inside} non-members), "
        "200 private"
    )
    assert subject["Shadow models"] == "12 of network cnn, 7 epochs each"
    assert subject["Attack"] == "lira-online-global, named by the user"


def test_samples_with_fixed_memberships_are_counted_apart(run: tuple[Path, np.ndarray]):
    assert "fixed" not in subject_of(run[0])["Data"]
    change_metrics(run[0], fixed=1800)
    assert subject_of(run[0])["Data"].endswith(
        ", 200 private; 1,800 more public samples have fixed memberships and are not scored"
    )


def test_without_a_configuration_only_what_is_known_is_said(run: tuple[Path, np.ndarray]):
    subject = subject_of(run[0])
    assert "Target" not in subject
    assert subject["Data"].startswith("400 samples of 3 classes: ")
    assert subject["Shadow models"] == "12"


def test_a_recipe_that_public_labels_chose_is_called_so(run: tuple[Path, np.ndarray]):
    out, _ = run
    assert "match" not in subject_of(out)["Shadow models"]
    (out / "config.yaml").write_text("matched: true\n")
    score(out, AttackConfig(name="margin"))
    subject = subject_of(out)
    assert subject["Shadow models"].endswith("recipe selected by jaxmia match with the public labels")
    assert subject["Epsilon"].startswith("no bound: jaxmia match selected the recipe by the public labels")


def test_epsilon_is_said_or_why_there_is_none(run: tuple[Path, np.ndarray]):
    bound = {"lower": None, "delta": 1e-5, "confidence": 0.95, "reason": "jax-privacy is not installed"}
    change_metrics(run[0], epsilon=bound)
    assert subject_of(run[0])["Epsilon"] == "no bound: jax-privacy is not installed"
    change_metrics(run[0], epsilon={**bound, "lower": 0.25, "reason": None})
    assert subject_of(run[0])["Epsilon"] == (
        "at least 0.250 at delta 1e-05, with 95 % confidence, if a fair coin decided for each scored public sample "
        "whether the target was trained on it"
    )


def test_the_network_that_was_identified_is_named(run: tuple[Path, np.ndarray]):
    out, _ = run
    (out / "config.yaml").write_text("challenge: {target: model.pt}\n")
    assert subject_of(out)["Target"] == "model.pt, network identified from its weights"
    change_metrics(out, target_network="resnet18")
    assert subject_of(out)["Target"] == "model.pt, network resnet18, identified from its weights"
