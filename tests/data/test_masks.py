import numpy as np
import pytest

from jaxmia.data.masks import (
    DRAWN,
    Masks,
    batch_order,
    draw_folds,
    join_folds,
    membership_masks,
    steps_per_epoch,
)


def test_a_row_depends_on_seed_and_model_only():
    whole = membership_masks(5, range(12), 300)
    for shard in range(3):
        np.testing.assert_array_equal(membership_masks(5, range(12)[shard::3], 300), whole[shard::3])
    np.testing.assert_array_equal(membership_masks(5, [7, 2, 7], 300), whole[[7, 2, 7]])


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 128, 299])
def test_a_smaller_pool_has_the_beginning_of_each_row(samples: int):
    masks = membership_masks(1, range(4), samples)
    assert masks.shape == (4, samples)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, membership_masks(1, range(4), 300)[:, :samples])


def within(count: int, trials: int) -> bool:
    """Five standard errors around one half."""
    return abs(count - trials / 2) < 5 * np.sqrt(trials) / 2


def test_in_is_a_fair_coin_independent_over_models_and_samples():
    masks = membership_masks(0, range(64), 4096)
    assert within(masks.sum(), masks.size)
    assert all(within(count, 4096) for count in masks.sum(1))
    assert all(within(count, 64) for count in masks.sum(0))
    for distance in (1, 2, 7, 64):
        assert within((masks[:, distance:] == masks[:, :-distance]).sum(), 64 * (4096 - distance))
        if distance < 64:
            assert within((masks[distance:] == masks[:-distance]).sum(), (64 - distance) * 4096)


def test_counts_of_in_models_are_binomial():
    """Their variance tells a fair coin from one that balances itself."""
    counts = membership_masks(3, range(64), 8192).sum(0)
    assert counts.var() == pytest.approx(16, rel=5 * np.sqrt(2 / 8192))


def test_no_two_models_and_no_two_seeds_are_alike():
    rows = np.concatenate([membership_masks(seed, range(20), 1000) for seed in (0, 1, 2, 2**32 - 1)])
    agreement = (rows[:, None] == rows[None, :]).mean(-1) - np.eye(len(rows))
    assert agreement.max() < 0.5 + 5.5 * 0.5 / np.sqrt(1000)
    assert agreement[~np.eye(len(rows), dtype=bool)].min() > 0.5 - 5.5 * 0.5 / np.sqrt(1000)


@pytest.mark.parametrize(("members", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 5), (8, 8)])
def test_an_epoch_is_a_permutation_filled_up_from_its_front(members: int, batch_size: int):
    chosen = np.arange(members) * 3 + 2
    order = batch_order(0, 4, chosen, 1, batch_size)
    flat = order.ravel()
    assert order.dtype == np.int32
    assert order.shape == (steps_per_epoch(members, batch_size), batch_size)
    np.testing.assert_array_equal(np.sort(flat[:members]), chosen)
    np.testing.assert_array_equal(flat[members:], np.tile(flat[:members], batch_size)[: len(flat) - members])


def test_orders_differ_by_seed_model_and_epoch():
    orders = [
        tuple(batch_order(seed, model, np.arange(50), epoch, 50)[0])
        for seed in (0, 1)
        for model in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert len(set(orders)) == len(orders)


def test_every_position_is_as_likely():
    """Where sample 0 comes in the order of six, over 6,000 epochs: chi-squared below its 99.99 % point."""
    places = [int(np.flatnonzero(batch_order(0, 0, np.arange(6), epoch, 6)[0] == 0)[0]) for epoch in range(6000)]
    counts = np.bincount(places, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 25.7


def told(samples: int = 300) -> np.ndarray:
    """The first 200 are told, a quarter of them members."""
    return np.where(np.arange(samples) < 200, np.arange(samples) % 4 == 0, DRAWN).astype(np.int8)


def test_with_nothing_known_masks_are_as_they_were():
    for masks in (
        Masks.random(5, 300),
        Masks.knowing(5, told(), 0.0),
        Masks.knowing(5, np.full(300, -1, np.int8), 1.0),
        Masks.knowing(5, np.arange(300, dtype=np.int8) % 2, 1.0),  # where all are told, nothing else could be scored
    ):
        assert masks.free.all()
        np.testing.assert_array_equal(masks(range(6)), membership_masks(5, range(6), 300))


@pytest.mark.parametrize("known", [0.25, 0.9, 1.0])
def test_what_is_told_is_in_every_mask_and_the_rest_is_drawn_as_before(known: float):
    membership = told()
    masks = Masks.knowing(5, membership, known)
    drawn = masks(range(8))
    for value in (0, 1):
        fixed = masks.fixed == value
        assert (membership[fixed] == value).all()
        assert (drawn[:, fixed] == bool(value)).all()
    assert (~masks.free).sum() == round(known * (membership != DRAWN).sum())
    np.testing.assert_array_equal(drawn[:, masks.free], membership_masks(5, range(8), 300)[:, masks.free])
    assert masks.free[membership == DRAWN].all(), "private samples are never fixed"


def test_which_told_samples_stay_free_depends_on_the_seed_alone():
    first, again, other = (Masks.knowing(seed, told(), 0.5) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.fixed, again.fixed)
    assert (first.fixed != other.fixed).any()
    np.testing.assert_array_equal(first(range(8))[3:4], again([3]))


def test_which_told_samples_are_fixed_does_not_depend_on_who_is_a_member():
    """Else the fixed memberships would tell how many of the free samples are members."""
    membership = told()
    flipped = np.where(membership == DRAWN, DRAWN, np.random.default_rng(1).integers(0, 2, 300)).astype(np.int8)
    one, other = (Masks.knowing(5, of, 0.9) for of in (membership, flipped))
    np.testing.assert_array_equal(one.free, other.free)


@pytest.mark.parametrize(("samples", "folds"), [(300, 4), (7, 3), (5, 5)])
def test_folds_are_of_nearly_equal_size_and_drawn_by_the_seed(samples: int, folds: int):
    fold = draw_folds(5, samples, folds)
    counts = np.bincount(fold, minlength=folds)
    assert len(counts) == folds
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(fold, draw_folds(5, samples, folds))
    assert samples < 300 or (fold != draw_folds(6, samples, folds)).any()


def test_each_sample_comes_from_its_own_fold():
    parts, fold = [np.arange(24).reshape(2, 3, 4) + 100 * number for number in range(3)], np.array([2, 0, 1, 2])
    joined = join_folds(parts, fold)
    for sample, own in enumerate(fold):
        np.testing.assert_array_equal(joined[..., sample], parts[own][..., sample])


def test_samples_are_drawn_with_chances_of_their_own():
    """Shares over 4,000 models within five standard errors; what is fixed stays so, whatever its chance."""
    chance = np.repeat([0.15, 0.5, 0.85], 40)
    fixed = np.where(np.arange(120) % 10 == 0, 1, DRAWN).astype(np.int8)
    masks = Masks(3, fixed, chance)
    drawn = masks(range(4000))
    assert drawn[:, fixed == 1].all()
    error = np.sqrt(chance * (1 - chance) / 4000)[masks.free]
    assert (np.abs(drawn.mean(0)[masks.free] - chance[masks.free]) < 5 * error).all()
    np.testing.assert_array_equal(masks([17]), drawn[17:18])
    correlation = np.corrcoef(drawn[:, masks.free].T)
    assert np.abs(correlation[~np.eye(len(correlation), dtype=bool)]).max() < 6 / np.sqrt(4000)
