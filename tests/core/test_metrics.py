from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch

from flexgym.core.errors import ConfigError
from flexgym.core.metrics import (
    KINDS,
    Histogram,
    Max,
    Mean,
    Share,
    Sum,
    from_description,
    plain,
    reduce,
    reduce_rows,
    settled,
)


def test_the_mean_is_over_all_elements_of_all_forwards() -> None:
    forwards = [Mean(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), Mean(torch.tensor([10.0]))]
    assert reduce(forwards).value == 4.0  # 20 / 5, and not (2.5 + 10) / 2
    assert reduce(forwards).count == 5


def test_a_list_of_scalars_reduces_to_the_mean_of_their_stack_to_the_bit() -> None:
    scalars = list(torch.randn(1001, generator=torch.Generator().manual_seed(0)) / 3)
    assert reduce([Mean(scalar) for scalar in scalars]).value == float(torch.stack(scalars).mean())
    parts = [torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert reduce([Mean(part) for part in parts]).value == float(torch.cat(parts).flatten().mean())
    assert reduce([Max(part.abs()) for part in parts]).value == float(torch.cat(parts).abs().max())


def test_reducing_does_not_wait_for_the_device() -> None:
    row = reduce_rows([{"a": Mean(torch.empty(2, device="meta"))}, {"a": Mean(torch.empty(1, device="meta"))}])
    assert (row["a"].values.device.type, row["a"].count) == ("meta", 3)


def test_values_have_no_graph() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not Mean(weight * 2).values.requires_grad


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([Mean(1.0), Mean(2.0)], 1.5),
        ([Mean(1.0, count=3), Mean(5.0, count=1)], 2.0),
        ([Mean(1.0, count=7), Mean(5.0, count=7)], 3.0),
        ([Mean(torch.tensor([1.0, 3.0])), Mean(8.0)], 4.0),
        ([Share(torch.tensor([True, False, False, False]))], 0.25),
        ([Share(0.25, count=4), Share(1.0, count=2)], 0.5),
        ([Max(1.0), Max(3.0), Max(2.0)], 3.0),
        ([Max(torch.tensor([-4.0, -3.0])), Max(torch.tensor(-7.0))], -3.0),
        ([Sum(torch.tensor([1, 2])), Sum(4)], 7.0),
        ([Sum(torch.tensor([True, True])), Sum(torch.tensor([False, True]))], 3.0),
        ([Histogram(torch.tensor([1.0, 2.0])), Histogram(9.0)], 4.0),
        ([Mean(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)), Mean(torch.tensor([6.0]))], 3.0),
        ([Mean(np.float32(0.5)), Mean(np.array([1.5, 2.5], dtype=np.float32))], 1.5),
    ],
)
def test_reductions(values: list[Mean], expected: float) -> None:
    assert reduce(values).value == expected


def test_learners_with_as_many_elements_give_numpys_mean_to_the_bit() -> None:
    numbers = [0.1, 0.7, 1 / 3]
    assert reduce([Mean(number, count=5) for number in numbers]).value == float(np.mean(numbers))


def test_nan_and_nothing_are_passed_over() -> None:
    empty = torch.zeros(0)
    assert reduce([Mean(math.nan), Mean(4.0), Mean(empty)]).value == 4.0
    assert reduce([Max(empty), Max(4.0)]).value == 4.0
    assert reduce([Max(empty), Max(torch.tensor([4.0]))]).value == 4.0
    for kind in (Mean, Max, Sum, Share):
        assert math.isnan(kind(empty).value)
        assert math.isnan(reduce([kind(empty), kind(math.nan)]).value)
    assert reduce([Mean(math.nan), Mean(math.nan)]).text() == "–"


def test_a_tensor_that_holds_nan_is_reported() -> None:
    broken = Mean(torch.tensor([1.0, math.nan])).settled()
    assert math.isnan(reduce([broken, Mean(1.0)]).value)
    assert math.isnan(reduce([Max(torch.tensor([1.0, math.nan])).settled(), Max(1.0)]).value)


def test_names_may_be_missing_from_some_learners() -> None:
    rows = [{"a": Mean(1.0), "b": Max(2.0)}, {"a": Mean(3.0), "c": Sum(5.0)}, {"b": Max(1.0)}]
    reduced = reduce_rows(rows)
    assert {name: metric.value for name, metric in reduced.items()} == {"a": 2.0, "b": 2.0, "c": 5.0}
    assert reduce_rows([]) == {}


def test_one_name_has_one_class() -> None:
    with pytest.raises(ConfigError, match="metric 'a': expected metrics of one class to reduce, got Max and Mean"):
        reduce_rows([{"a": Mean(1.0)}, {"a": Max(1.0)}])
    with pytest.raises(ConfigError, match="got none"):
        reduce([])
    with pytest.raises(ConfigError, match="expected a tensor or a number as a metric's value, got 'high'"):
        Mean("high")


def test_settled_metrics_are_plain_numbers_that_can_be_sent() -> None:
    made = Mean(torch.tensor([1.0, 2.0, 6.0]), label="ratio", unit="x", format=".2f", panel="headline", priority=3)
    sent = pickle.loads(pickle.dumps(settled({"a": made})))["a"]
    assert (type(sent), type(sent.values), sent.value, sent.count) == (Mean, float, 3.0, 3)
    assert sent.describe() == made.describe()
    assert reduce([sent, Mean(7.0, count=1)]).value == 4.0
    assert sent.settled().count == 3


def test_a_settled_histogram_keeps_its_elements() -> None:
    sent = pickle.loads(pickle.dumps(Histogram(torch.tensor([[1.0], [3.0]])).settled()))
    assert sent.elements.tolist() == [1.0, 3.0]
    assert Histogram(2.0).settled().elements.tolist() == [2.0]


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Mean(0.123456), "0.1235"),
        (Mean(0.5, format=".3f"), "0.500"),
        (Share(0.0213), "2.1%"),
        (Max(0.031, format=".1e"), "3.1e-02"),
        (Max(0.0, format=".1e"), "0"),
        (Max(2.06, unit="s"), "2.1 s"),
        (Max(99.96, unit="s"), "100 s"),
        (Sum(12, unit="tokens", format=".0f"), "12 tokens"),
        (Mean(math.inf), "–"),
    ],
)
def test_texts(metric: Mean, text: str) -> None:
    assert metric.text() == text


def test_an_earlier_value_is_shown_alike() -> None:
    assert Share(0.5).text(0.25) == "25.0%"
    assert Share(0.5).text(math.nan) == "–"
    assert Mean(0.5, format=".3f").text(0.1, signed=True) == "+0.100"


@pytest.mark.parametrize("kind", KINDS.values())
def test_descriptions_are_plain_and_read_back(kind: type[Mean]) -> None:
    made = kind(1.0, label="a", unit="s", format=".1f", panel="time", priority=1, sparse=True)
    description = json.loads(json.dumps(made.describe()))
    read = from_description({**description, "of a later version": 1})
    assert (type(read), read.describe(), math.isnan(read.value)) == (kind, description, True)


def test_a_class_of_ones_own_is_described_by_the_kind_that_it_extends() -> None:
    class Percent(Share):
        pass

    assert Percent(0.5).describe()["kind"] == "Share"
    assert type(from_description({"kind": "Percentile"})) is Mean


def test_values_over_time() -> None:
    assert Mean.over_time([1.0, 2.0, 6.0]) == 3.0
    assert Max.over_time([1.0, 6.0, 2.0]) == 6.0


def test_plain_numbers() -> None:
    assert plain(Max(3.0)) == 3.0
    assert plain(4) == 4
