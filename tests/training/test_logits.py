import numpy as np
import pytest

from jaxmia.data.views import views
from jaxmia.errors import InputError
from jaxmia.training.logits import checked_logits
from jaxmia.training.query import query_target

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
LABELS = np.arange(20) % 3
LOGITS = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def query(answer: object) -> tuple[np.ndarray, np.ndarray]:
    return query_target(lambda images: answer, IMAGES, LABELS, views(("identity",)), 20)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("scale", [1, 30])
def test_probabilities_are_refused_and_their_log_is_what_the_logits_are(kind: type, scale: float):
    with pytest.raises(InputError, match=r"target: returned probabilities .* sum to 1\), expected logits: .* log$"):
        query(softmax(scale * LOGITS).astype(kind))
    phi, correct = query(LOGITS)
    again, same = query(np.log(softmax(LOGITS)))
    np.testing.assert_allclose(again, phi, atol=1e-5)
    np.testing.assert_array_equal(same, correct)


def test_logits_that_lie_in_0_to_1_are_no_probabilities():
    phi, _ = query(np.abs(LOGITS) / 10)
    assert phi.shape == (1, 20)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (LOGITS[:, :2], r"returned 2 classes, the labels have 3 \(0 to 2\)$"),
        (LOGITS[:, 0], r"returned an array of \[20\] for 20 images, expected logits \[sample, class\]$"),
        (LOGITS.T, r"returned an array of \[3, 20\] for 20 images"),
        (LOGITS[:19], r"returned an array of \[19, 3\] for 20 images"),
        (LOGITS[:, :, None], r"returned an array of \[20, 3, 1\] for 20 images"),
        ("yes", r"returned a str that is not an array of numbers"),
        (None, r"returned a NoneType that is not an array of numbers|returned an array of \[\]"),
        ([{}], r"returned a list that is not an array of numbers"),
    ],
)
def test_what_are_no_logits_of_these_samples(answer: object, message: str):
    with pytest.raises(InputError, match=f"target: {message}"):
        query(answer)


def test_more_classes_than_the_labels_have_are_taken():
    assert checked_logits(lambda images: LOGITS, 2)(IMAGES).shape == (20, 3)
