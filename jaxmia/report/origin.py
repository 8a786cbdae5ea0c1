"""How the run was made: training curves, throughput, versions."""

from collections.abc import Sequence

import numpy as np

from jaxmia.plots.panels import paint_curves
from jaxmia.plots.style import IN, INK, OUT, draw
from jaxmia.report.results import ChunkRecord, Results
from jaxmia.report.section import Section, Table
from jaxmia.runs.store import recorded_number

_RECORDED = ("jaxmia", "commit", "python", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "platform", "device")


def show_training(results: Results) -> Section:
    """Training curves of the shadows."""
    title = "How the shadows learned"
    curve = results.shadows.extra.get("curve")
    fits = curve is not None and curve.ndim == 3 and curve.shape[1] > 1 and curve.shape[2] == 4
    known = curve[np.isfinite(curve).all((1, 2))] if fits and curve is not None else np.empty((0, 0, 4))
    if not len(known):
        return Section(title, ("Left out: the shadows' files hold no training curves.",))
    epochs = known[0, :, 0]
    spread = "Mean of the shadows; the band holds 90 of 100."
    accuracy = draw(
        "accuracy",
        f"Accuracy on probed samples. {spread}",
        lambda axes: paint_curves(axes, epochs, [("IN", IN, known[:, :, 2]), ("OUT", OUT, known[:, :, 3])], "accuracy"),
    )
    loss = draw(
        "loss",
        f"Training loss. {spread}",
        lambda axes: paint_curves(axes, epochs, [("loss", INK, known[:, :, 1])], "training loss (nats)"),
    )
    return Section(title, plots=(accuracy, loss), wide=True)


def show_throughput(results: Results) -> Section:
    """How fast the shadows were trained, by device."""
    title = "How fast"
    timed = [record for record in results.chunks if _images(record) is not None]
    if not timed:
        return Section(title, ("Left out: the shadows' files do not say how long training took.",))
    rows = []
    for device in sorted({_device(record) for record in timed}):
        chunks = [record for record in timed if _device(record) == device]
        seconds = sum(recorded_number(record.metadata, "train_seconds") or 0 for record in chunks)
        images = sum(_images(record) or 0 for record in chunks)
        models = sum(record.models for record in chunks)
        together = max(recorded_number(record.metadata, "trained_together") or 1 for record in chunks)
        rows.append(
            (
                device,
                f"{models}",
                f"{together:.0f}",
                _duration(seconds),
                f"{images / seconds:,.0f}",
                f"{3600 * models / seconds:,.0f}",
            )
        )
    text = "Training time of each device, compilation included; images/s counts the images of all models."
    head = ("device", "models", "at once", "training", "images/s", "models/hour")
    return Section(title, (text,), tables=(Table(head, tuple(rows)),))


def show_making(results: Results) -> Section:
    """Versions, device and configuration."""
    title = "How it was made"
    queried = [recorded_number(record.metadata, "query_seconds") for record in results.chunks]
    rows = [
        ("attack", results.metrics.attack),
        ("false positive rate", f"{results.metrics.fpr:g}"),
        ("shadow models", f"{len(results.shadows.model)}"),
        ("samples", f"{int(results.pool.public.sum()):,} public, {int((~results.pool.public).sum()):,} private"),
        ("views of each sample", f"{len(results.evidence.target)}"),
        *((name, _distinct(results.chunks, name)) for name in _RECORDED),
        ("querying the shadows", _duration(sum(seconds for seconds in queried if seconds)) if any(queried) else ""),
    ]
    tables = [Table(("", ""), tuple(row for row in rows if row[1]))]
    if results.config:
        lines = tuple((line,) for line in results.config.splitlines())
        tables.append(Table((), lines, folded="The configuration"))
        return Section(title, tables=tuple(tables))
    return Section(
        title, ("No configuration is in the run directory; the matrices were made elsewhere.",), tables=tuple(tables)
    )


def _images(record: ChunkRecord) -> float | None:
    """Images that a chunk's models trained on; None where the time, or what it took, is not recorded."""
    epochs, together = (
        recorded_number(record.metadata, "cache_key", "shadow", "epochs"),
        recorded_number(record.metadata, "trained_together"),
    )
    if not (epochs and together and recorded_number(record.metadata, "train_seconds")):
        return None
    return epochs * together * record.members


def _device(record: ChunkRecord) -> str:
    return str(record.metadata.get("device") or "unknown device")


def _distinct(chunks: Sequence[ChunkRecord], name: str) -> str:
    """All values that the chunks recorded under a name."""
    return ", ".join(sorted({str(chunk.metadata[name]) for chunk in chunks if chunk.metadata.get(name)}))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
