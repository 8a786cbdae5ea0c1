import numpy as np
import pytest

from jaxmia.data.masks import membership_masks
from jaxmia.data.pool import Pool
from jaxmia.runs.progress import Progress
from jaxmia.training.chunk import split
from tests.training.conftest import make_trainer, plan, shadow_trainer


def run(pool: Pool, models: list[int], width: int, reports: list[Progress] | None = None):
    assert pool.images is not None
    shadows = shadow_trainer(
        make_trainer(architecture="mlp", width=4, epochs=2),
        plan(width=width),
        pool.images,
        pool.labels,
        metadata={"cache_key": {"seed": 11}},
        on_progress=(reports if reports is not None else []).append,
    )
    return list(shadows.train(models))


def test_width_chunks_and_order_change_nothing(pool: Pool):
    """Masks bit for bit; margins up to rounding, as sums run in another order in a wider program."""
    (whole,) = run(pool, [0, 1, 2, 3, 4], 5)
    np.testing.assert_array_equal(whole.mask, membership_masks(11, range(5), len(pool)))
    assert np.abs(whole.phi[0] - whole.phi[1]).max() > 0.1
    chunks = run(pool, [4, 2, 0, 1, 3], 2)
    assert [chunk.model.tolist() for chunk in chunks] == [[4, 2], [0, 1], [3]]
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.mask, whole.mask[chunk.model])
        np.testing.assert_allclose(chunk.phi, whole.phi[chunk.model], atol=1e-4)
        assert chunk.extra["curve"].shape == (len(chunk.model), 2, 4)


def test_accuracies_are_shares_of_positive_margins_or_ties(pool: Pool):
    """With three classes phi > 0 means right; right may also hold a little below 0."""
    (chunk,) = run(pool, [0, 1], 2)
    for side, accuracy in ((~chunk.mask, chunk.accuracy), (chunk.mask, chunk.accuracy_in)):
        sure = ((chunk.phi[:, 0] > 0) & side).sum(1) / side.sum(1)
        possible = ((chunk.phi[:, 0] > -np.log(2)) & side).sum(1) / side.sum(1)
        assert (sure <= accuracy + 1e-6).all()
        assert (accuracy <= possible + 1e-6).all()


def test_progress_reaches_its_total_in_both_stages(pool: Pool):
    reports: list[Progress] = []
    run(pool, [0, 1, 2], 2, reports)
    for stage in ("training", "querying"):
        of_stage = [report for report in reports if report.stage == stage]
        assert {tuple(report.models) for report in of_stage} == {(0, 1), (2,)}
        for models in ((0, 1), (2,)):
            done = [report.done for report in of_stage if tuple(report.models) == models]
            assert done == sorted(done)
            assert done[-1] == of_stage[-1].total if models == (2,) else done[-1] > 0
    assert all(np.isfinite(report.loss) for report in reports if report.stage == "training")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 9, 64, 100])
@pytest.mark.parametrize("width", [1, 4, 8, 32])
def test_parts_are_few_and_even_and_stay_what_they_are_when_the_first_are_done(count: int, width: int):
    models = list(range(3, 3 + 2 * count, 2))
    parts = split(models, width)
    assert [model for part in parts for model in part] == models
    assert len(parts) == -(-count // width)
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes, default=0) <= width
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    for done in range(len(parts)):
        assert split([model for part in parts[done:] for model in part], width) == parts[done:]
