from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgym.core.errors import ConfigError
from flexgym.rm.stream import BatchStream, Position


@given(rows=st.integers(3, 60), batch=st.integers(1, 3), seed=st.integers(0, 5))
def test_a_pass_takes_every_row_once_and_drops_the_rest(rows, batch, seed):
    stream = BatchStream(range(rows), batch_size=batch, seed=seed)
    taken = np.concatenate([stream.take() for _ in range(rows // batch)])
    assert len(set(taken.tolist())) == len(taken) == rows // batch * batch
    assert stream.position == Position(1, 0)


def test_every_pass_is_shuffled_anew_and_every_seed_otherwise():
    stream = BatchStream([1] * 20, batch_size=20, seed=0)
    first, second = stream.take(), stream.take()
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, BatchStream([1] * 20, batch_size=20, seed=1).take())


def test_batches_hold_rows_of_similar_length_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 1000, 640)
    stream = BatchStream(lengths, batch_size=8, seed=0)
    batches = [lengths[stream.take()] for _ in range(80)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert padded < 1.06 * lengths.sum()
    means = [batch.mean() for batch in batches]
    assert abs(np.corrcoef(means, range(80))[0, 1]) < 0.3


def test_a_place_in_the_stream_can_be_returned_to():
    stream = BatchStream(range(10), batch_size=3, seed=0)
    for _ in range(4):
        stream.take()
    again = BatchStream(range(10), batch_size=3, seed=0)
    again.position = stream.position
    for _ in range(5):
        np.testing.assert_array_equal(again.take(), stream.take())


def test_fewer_rows_than_a_batch_are_refused():
    with pytest.raises(ConfigError, match="needs training.batch_size=4 rows, but there are only 3"):
        BatchStream(range(3), batch_size=4, seed=0)
