"""Samples that the report shows, with their margins: the most vulnerable ones, and those of extreme scores."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import imsave

from jaxmia.attacks import sample_fits
from jaxmia.data.kinds import IMAGES, kind_of
from jaxmia.plots.style import IN, INK, OUT
from jaxmia.report.results import Results, target_margin

SHOWN = 6
_MARKS = 100
"""Largest number of IN and of OUT shadows drawn for a sample."""


@dataclass(frozen=True)
class SampleMargins:
    """Logit margins of one sample, in nats.

    Attributes:
        inside: Margins of shadows trained on it, `[model]`.
        outside: Margins of the other shadows, `[model]`.
        target: Margin of the target, aligned with the shadows if the attack aligns it.
    """

    inside: np.ndarray
    outside: np.ndarray
    target: float

    def place(self, margin: float) -> float:
        """Position of a margin between the lowest and the highest margin, from 0 to 1."""
        everything = np.concatenate([self.inside, self.outside, [self.target]])
        return float((margin - everything.min()) / max(np.ptp(everything), 1e-9))


@dataclass(frozen=True)
class ShownSample:
    """A sample that the report shows.

    Attributes:
        name: Id of the sample.
        label: Class of the sample.
        status: `member`, `non-member` or `private`.
        score: Score of the submitted attack.
        gap: Standardised distance between IN and OUT margins (`jaxmia.attacks.sample_fits`); None if there is none.
        margins: Margins of the models; None for fused runs.
        pixels: Image in [0, 1], `[height, width, 3]` or greyscale `[height, width]`; None if there is none.
    """

    name: str
    label: int
    status: str
    score: float
    gap: float | None
    margins: SampleMargins | None
    pixels: np.ndarray | None

    @property
    def picture(self) -> str | None:
        """The image as a `data:` URL; None if there is none."""
        if self.pixels is None:
            return None
        buffer = io.BytesIO()
        imsave(buffer, self.pixels, format="png", cmap="gray", vmin=0, vmax=1)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def are_pictures(images: np.ndarray) -> bool:
    """Whether samples can be shown as pictures: images of more than one row and column."""
    return kind_of(images) is IMAGES and min(images.shape[1:3]) > 1


def notable_samples(results: Results, images: np.ndarray | None) -> dict[str, list[ShownSample]]:
    """Samples that leak most and samples of extreme scores, at most six of each kind, by the title of the kind.

    A low score does not mean that a sample leaks little: the surest non-members often leak as much as the surest
    members. How much a sample leaks is the gap between the margins of models trained on it and of the others.

    Args:
        results: Results of a scored run.
        images: Images, uint8 or float in [0, 1], `[sample, height, width, channel]`; None if there are none.
    """
    order = np.argsort(-results.score, kind="stable")
    count = min(SHOWN, len(order) // 2)
    matrices = results.matrices
    gaps = sample_fits(matrices.evidence)["gap"] if matrices else np.full(len(order), np.nan)
    widest = [sample for sample in np.argsort(-gaps, kind="stable") if not np.isnan(gaps[sample])]
    targets = target_margin(matrices, results.attack) if matrices else None

    def margins(sample: int) -> SampleMargins | None:
        if matrices is None or targets is None:
            return None
        phi, trained = matrices.shadows.phi[:, 0, sample], matrices.shadows.mask[:, sample]
        return SampleMargins(_thinned(phi[trained]), _thinned(phi[~trained]), float(targets[sample]))

    def shown(sample: int) -> ShownSample:
        return ShownSample(
            name=str(results.pool.ids[sample]),
            label=int(results.pool.labels[sample]),
            status={1: "member", 0: "non-member"}.get(int(results.pool.membership[sample]), "private"),
            score=float(results.score[sample]),
            gap=None if np.isnan(gaps[sample]) else float(gaps[sample]),
            margins=margins(sample),
            pixels=None if images is None else _pixels(images[sample]),
        )

    kinds = {
        "Most vulnerable: the widest gaps": widest,
        "Surest members: the highest scores": order,
        "Surest non-members: the lowest scores": order[::-1],
    }
    return {title: [shown(int(sample)) for sample in samples[:count]] for title, samples in kinds.items()}


def _thinned(margins: np.ndarray) -> np.ndarray:
    return np.asarray(margins[:: -(-len(margins) // _MARKS) or 1], np.float64)


def _pixels(image: np.ndarray) -> np.ndarray:
    """Scales an image to [0, 1]; averages the channels unless there are three."""
    scaled = np.clip(image / 255.0 if image.dtype == np.uint8 else np.asarray(image, np.float64), 0, 1)
    return scaled if scaled.shape[-1] == 3 else scaled.mean(-1)


def paint_gallery(axes: Axes, rows: Sequence[tuple[str, Sequence[ShownSample]]]) -> None:
    """Draws rows of images, each above the margins of the shadows (IN above OUT) and of the target (a line).

    Args:
        axes: Axes to draw into.
        rows: Title and samples of each row, from the top; each sample has an image.
    """
    axes.set_axis_off()
    tall = 1 / len(rows)
    for row, (title, samples) in enumerate(rows):
        base = 1 - (row + 1) * tall
        axes.text(0, base + 0.97 * tall, title, transform=axes.transAxes, va="top")
        wide = 1 / len(samples)
        for column, sample in enumerate(samples):
            left = (column + 0.04) * wide
            picture = axes.inset_axes((left, base + 0.3 * tall, 0.92 * wide, 0.52 * tall))
            picture.imshow(np.asarray(sample.pixels), cmap="gray", vmin=0, vmax=1)
            picture.set_axis_off()
            if sample.margins is None:
                continue
            strip = axes.inset_axes((left, base + 0.06 * tall, 0.92 * wide, 0.2 * tall))
            for height, margins, colour in ((1, sample.margins.inside, IN), (0, sample.margins.outside, OUT)):
                strip.plot(margins, np.full(len(margins), height), "|", color=colour, markersize=5, markeredgewidth=0.6)
            strip.axvline(sample.margins.target, color=INK, linewidth=1)
            strip.set(ylim=(-0.7, 1.7))
            strip.set_axis_off()
