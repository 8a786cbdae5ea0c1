"""Sections of the report on the run itself: training curves, throughput, provenance."""

from collections.abc import Sequence

import numpy as np

from jaxmia.plots.panels import paint_curves
from jaxmia.plots.style import IN, INK, OUT, draw
from jaxmia.report.results import ChunkRecord, Results
from jaxmia.report.section import Section, Table
from jaxmia.runs.matrices import Matrices
from jaxmia.runs.status import ranges
from jaxmia.runs.store import recorded_number

_RECORDED = (
    *("jaxmia", "commit", "python", "jax", "jaxlib", "flax", "optax", "numpy", "torch"),
    *("platform", "device", "kernels"),
)


def show_training(matrices: Matrices) -> Section:
    """Training curves of the shadows."""
    title = "Training curves"
    curve = matrices.shadows.extra.get("curve")
    fits = curve is not None and curve.ndim == 3 and curve.shape[1] > 1 and curve.shape[2] == 4
    known = curve[np.isfinite(curve).all((1, 2))] if fits and curve is not None else np.empty((0, 0, 4))
    if not len(known):
        return Section(title, ("Not shown: the files of the shadows contain no training curves.",))
    epochs = known[0, :, 0]
    spread = "Mean over the shadows; the band contains the central 90 %."
    accuracy = draw(
        "accuracy",
        f"Accuracy on a subset of the IN and OUT samples. {spread}",
        lambda axes: paint_curves(axes, epochs, [("IN", IN, known[:, :, 2]), ("OUT", OUT, known[:, :, 3])], "accuracy"),
    )
    loss = draw(
        "loss",
        f"Training loss. {spread}",
        lambda axes: paint_curves(axes, epochs, [("loss", INK, known[:, :, 1])], "training loss (nats)"),
    )
    return Section(title, plots=(accuracy, loss), wide=True)


def show_throughput(results: Results) -> Section:
    """Training throughput by device."""
    title = "Training throughput"
    timed = [record for record in results.chunks if _images(record) is not None]
    if not timed:
        return Section(title, ("Not shown: the files of the shadows do not record the training time.",))
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
    text = "Training time on each device, including compilation; images/s counts the images of all models."
    head = ("device", "models", "models at once", "training time", "images/s", "models/hour")
    return Section(title, (text,), tables=(Table(head, tuple(rows)),), wide=True)


def show_provenance(results: Results) -> Section:
    """Counts, versions, device and configuration of the run."""
    run, versions = _run_rows(results), [(name, _distinct(results.chunks, name)) for name in _RECORDED]
    tables = [Table(("", ""), tuple(row for row in rows if row[1])) for rows in (run, versions)]
    text = ()
    if results.config:
        lines = tuple((line,) for line in results.config.text.splitlines())
        tables.append(Table((), lines, folded="Configuration"))
    elif results.metrics.fused:
        text = ("Each of the fused runs has its own configuration and report.",)
    else:
        text = ("The run directory has no configuration; its margins were computed elsewhere.",)
    return Section("Provenance", text, tables=tuple(table for table in tables if table.rows), wide=True)


def _run_rows(results: Results) -> list[tuple[str, str]]:
    metrics, matrices = results.metrics, results.matrices
    queried = [recorded_number(record.metadata, "query_seconds") for record in results.chunks]
    return [
        ("attack", metrics.attack),
        ("false positive rate", f"{metrics.fpr:g}"),
        *((f"run {place}", one.run) for place, one in enumerate(metrics.fused, start=1)),
        ("shadow models", _models(metrics.models, matrices)),
        ("missing shadow models", ranges(list(metrics.missing))),
        ("diverged shadow models", ranges(list(metrics.diverged))),
        ("views of each sample", f"{len(matrices.evidence.target)}" if matrices else ""),
        ("querying the shadows", _duration(sum(seconds for seconds in queried if seconds)) if any(queried) else ""),
    ]


def _models(scored: int, matrices: Matrices | None) -> str:
    """Number of models that were scored, and of those that are stored if it differs; empty for fused runs."""
    stored = len(matrices.shadows.model) if matrices else scored
    return f"{scored}, but {stored} are stored; score again" if stored != scored else f"{scored or ''}"


def _images(record: ChunkRecord) -> float | None:
    """Number of images that a chunk's models were trained on; None if it or the training time is not recorded."""
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
    """Distinct values that the chunks recorded under a name."""
    return ", ".join(sorted({str(chunk.metadata[name]) for chunk in chunks if chunk.metadata.get(name)}))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
