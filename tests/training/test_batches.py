import numpy as np
import pytest

from jaxmia.data.masks import batch_order, membership_masks
from jaxmia.errors import InputError
from jaxmia.training.batches import Batches

MODELS = [4, 9, 0]
MASK = membership_masks(2, MODELS, 60)


def batches(epochs: int = 4, batch_size: int = 8) -> Batches:
    return Batches(2, MODELS, MASK, epochs, batch_size)


def test_each_epoch_shows_each_of_the_models_own_samples_once():
    made = batches()
    index = made.block(0, made.steps)
    for position, row in enumerate(MASK):
        members = np.flatnonzero(row)
        steps = -(-len(members) // 8)
        assert made.total[position] == 4 * steps
        for epoch in range(4):
            shown = index[epoch * steps : (epoch + 1) * steps, position].ravel()
            np.testing.assert_array_equal(np.sort(shown[: len(members)]), members)
            np.testing.assert_array_equal(shown[len(members) :], shown[: len(shown) - len(members)])


def test_no_model_sees_a_sample_that_is_not_its_own_even_after_its_end():
    made = batches()
    index = made.block(0, made.steps + 10)
    for position, row in enumerate(MASK):
        assert row[index[:, position]].all()


def test_a_block_cut_anywhere_is_the_whole():
    whole = batches().block(0, 17)
    made = batches()
    for cut in range(18):
        np.testing.assert_array_equal(np.concatenate([made.block(0, cut), made.block(cut, 17 - cut)]), whole)
    for step in reversed(range(17)):
        np.testing.assert_array_equal(made.block(step, 1)[0], whole[step])


def test_a_models_batches_do_not_depend_on_its_company():
    together = batches().block(0, 12)
    for position, model in enumerate(MODELS):
        alone = Batches(2, [model], MASK[position : position + 1], 4, 8)
        np.testing.assert_array_equal(alone.block(0, 12)[:, 0], together[:, position])
        members = np.flatnonzero(MASK[position])
        np.testing.assert_array_equal(alone.block(0, 3)[:, 0], batch_order(2, model, members, 0, 8)[:3])


def test_steps_are_those_of_the_model_with_most_samples():
    made = batches(epochs=3)
    per_epoch = [-(-int(row.sum()) // 8) for row in MASK]
    assert made.steps == 3 * max(per_epoch)
    assert made.steps_per_epoch == max(per_epoch)


def test_fewer_samples_than_a_batch_are_shown_again_and_again():
    mask = np.zeros((1, 9), bool)
    mask[0, [2, 5, 7]] = True
    index = Batches(0, [1], mask, 2, 8).block(0, 2)[:, 0]
    for batch in index:
        assert sorted(set(batch)) == [2, 5, 7]
        np.testing.assert_array_equal(batch[3:6], batch[:3])
        np.testing.assert_array_equal(batch[6:], batch[:2])


def test_a_model_without_samples_is_named():
    with pytest.raises(InputError, match="model 9 has no IN samples among 60; use a larger pool"):
        Batches(0, MODELS, MASK & (np.array(MODELS) != 9)[:, None], 1, 8)
