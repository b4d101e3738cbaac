"""Metric values that carry how they are reduced and shown: `Mean`, `Max`, `Sum`, `Share` and `Histogram`.

```python
metrics = {"policy/ratio_mean": Mean(log_ratio.exp(), label="ratio mean", format=".4f")}
metrics = reduce_rows([metrics_of_forward_1, metrics_of_forward_2])  # tensors stay on their device
settled = {name: metric.settled() for name, metric in metrics.items()}  # plain numbers, ready to be sent
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from flexgym.core.errors import ConfigError

if TYPE_CHECKING:
    # Commands that only read metrics do not wait for torch to load: whoever makes a tensor has loaded it.
    from torch import Tensor

Panel = Literal["headline", "values", "time", "duration", "hidden"]
"""Part of the display that shows a metric, see `Metric.panel`."""
MISSING = "–"
"""Text of a value that is not there."""
_EXACT_BYTES = 4  # of a float32


@dataclass(frozen=True, eq=False)
class Metric:
    """Base of the metric values: numbers together with their reduction, label, unit and format.

    Use a subclass. NaN as a number, like an empty tensor, means that there is nothing to report, and other values of
    the same name are reduced without it. A tensor that holds NaN is reported as NaN.

    Attributes:
        values: a tensor of any shape, which stays on its device without its graph, or a number.
        count: elements that ``values`` stands for; follows from them unless given.
        label: short name for people; empty takes the name of the metric.
        unit: such as ``"s"``.
        format: format specification of one value, such as ``".3f"``; empty takes that of the class.
        panel: ``"headline"`` for a line of its own with a curve, ``"values"`` beside the metrics whose names begin
            alike, ``"time"`` for seconds that are part of an iteration, ``"duration"`` for those of the iteration,
            ``"hidden"`` for metrics that are recorded and not displayed.
        priority: place among the metrics of a panel, lower first.
        sparse: measured in some iterations only and compared with its first measurement.
    """

    values: Any = math.nan
    _: KW_ONLY
    count: int = -1
    label: str = ""
    unit: str = ""
    format: str = ""
    panel: Panel = "values"
    priority: int = 50
    sparse: bool = False

    default_format: ClassVar[str] = ".4g"

    def __post_init__(self) -> None:
        values = _detached(self.values)
        object.__setattr__(self, "values", values)
        if self.count < 0:
            count = int(not math.isnan(values)) if isinstance(values, float) else values.numel()
            object.__setattr__(self, "count", count)

    @property
    def value(self) -> float:
        """The reduced value; waits for the device that holds the tensor."""
        if isinstance(self.values, float):
            return self.values
        return float(self.reduce_tensor(_flat(self.values))) if self.count else math.nan

    def settled(self) -> Metric:
        """Return the metric with a plain number in place of the tensor, which can be pickled and sent anywhere."""
        return replace(self, values=self.value, count=self.count)

    def with_value(self, value: Any, *, count: int = -1) -> Metric:
        """Return a metric of the same kind and look with another value."""
        return replace(self, values=value, count=count)

    def text(self, value: float | None = None, *, signed: bool = False) -> str:
        """Return a value with its unit as it is shown; a dash for NaN and infinity.

        Args:
            value: a value of this metric, such as an earlier one or a difference; by default its own.
            signed: put a plus before positive numbers.
        """
        number = self.value if value is None else value
        if not math.isfinite(number):
            return MISSING
        spec = self.format or self.default_format
        if self.unit == "s" and not self.format:
            spec = ".1f" if abs(number) < 99.95 else ".0f"
        text = "0" if number == 0 and spec.endswith("e") else format(number, f"{'+' if signed else ''}{spec}")
        return f"{text} {self.unit}" if self.unit else text

    def describe(self) -> dict[str, Any]:
        """Return kind and look as plain values, from which `from_description` makes a metric without a value."""
        kind = next(kind for kind in type(self).__mro__ if kind in KINDS.values())
        return {"kind": kind.__name__, **{name: getattr(self, name) for name in _LOOK}}

    @staticmethod
    def reduce_tensor(flat: Tensor) -> Tensor:
        """Reduce a tensor ``[N]`` of at least one element to a scalar on its device."""
        raise NotImplementedError

    @staticmethod
    def merge(values: Sequence[float], counts: Sequence[int]) -> float:
        """Merge reduced values, each of ``counts`` elements, such as those of several learners."""
        raise NotImplementedError

    @staticmethod
    def over_time(values: Sequence[float]) -> float:
        """Merge the values of several iterations into one, for a curve with fewer points."""
        return sum(values) / len(values)


class Mean(Metric):
    """Mean over all elements; learners with different numbers of elements are weighted by them."""

    @staticmethod
    def reduce_tensor(flat: Tensor) -> Tensor:
        """Return the mean of all elements."""
        return flat.mean()

    @staticmethod
    def merge(values: Sequence[float], counts: Sequence[int]) -> float:
        """Return the mean, weighted if the counts differ."""
        weights = None if len(set(counts)) == 1 else counts
        return float(np.mean(values) if weights is None else np.average(values, weights=weights))


class Share(Mean):
    """Mean of zeros and ones, shown in percent: ``Share(ratio > 1.2)``."""

    default_format: ClassVar[str] = ".1%"


class Max(Metric):
    """Maximum over all elements and learners."""

    @staticmethod
    def reduce_tensor(flat: Tensor) -> Tensor:
        """Return the maximum of all elements."""
        return flat.max()

    @staticmethod
    def merge(values: Sequence[float], counts: Sequence[int]) -> float:
        """Return the maximum over the learners."""
        return float(np.max(values))

    @staticmethod
    def over_time(values: Sequence[float]) -> float:
        """Return the maximum over the iterations."""
        return max(values)


class Sum(Metric):
    """Sum over all elements and learners."""

    @staticmethod
    def reduce_tensor(flat: Tensor) -> Tensor:
        """Return the sum of all elements."""
        return flat.sum()

    @staticmethod
    def merge(values: Sequence[float], counts: Sequence[int]) -> float:
        """Return the sum over the learners."""
        return float(np.sum(values))


class Histogram(Mean):
    """Distribution of all elements: TensorBoard gets all of them, a row and the display their mean."""

    def settled(self) -> Histogram:
        """Return the metric with its elements on the CPU, float32 or float64 ``[N]``."""
        return replace(self, values=self.elements, count=self.count)

    @property
    def elements(self) -> Tensor:
        """All elements on the CPU, float32 or float64 ``[N]``."""
        return _flat(self.values).cpu()


KINDS: dict[str, type[Metric]] = {kind.__name__: kind for kind in (Mean, Max, Sum, Share, Histogram)}
"""The kinds of metrics by the name that `Metric.describe` gives."""
_LOOK = ("label", "unit", "format", "panel", "priority", "sparse")


def from_description(description: Mapping[str, Any]) -> Metric:
    """Make a metric without a value from what `Metric.describe` returned; keys that are not known are passed over."""
    kind = KINDS.get(str(description.get("kind")), Mean)
    return kind(**{key: description[key] for key in _LOOK if key in description})


def reduce(metrics: Sequence[Metric]) -> Metric:
    """Merge values of one metric: of the forwards of an update, or of several learners.

    Tensors are concatenated and stay on their device; then the value is that over all elements. Otherwise the numbers
    are merged, `Mean` with their counts as weights.

    Args:
        metrics: at least one, of the same class; label and format are those of the first.

    Raises:
        ConfigError: there is none, or their classes differ.
    """
    kinds = sorted({type(metric).__name__ for metric in metrics})
    if len(kinds) != 1:
        raise ConfigError(f"expected metrics of one class to reduce, got {' and '.join(kinds) or 'none'}")
    first, *others = metrics
    if not others:
        return first
    if isinstance(first, Histogram) or not any(isinstance(metric.values, float) for metric in metrics):
        return first.with_value(_concatenated(metrics))
    there = [metric.settled() for metric in metrics if metric.count]
    if not there:
        return first
    counts = [metric.count for metric in there]
    return first.with_value(first.merge([metric.value for metric in there], counts), count=sum(counts))


def reduce_rows(rows: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Reduce metrics by name; a name may be missing from some of the rows.

    Args:
        rows: metrics by name, of the forwards of an update or of several learners.

    Raises:
        ConfigError: metrics of one name have different classes.
    """
    reduced = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            reduced[name] = reduce([row[name] for row in rows if name in row])
        except ConfigError as error:
            raise ConfigError(f"metric {name!r}: {error}") from error
    return reduced


def settled(row: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return metrics by name with plain numbers, see `Metric.settled`."""
    return {name: metric.settled() for name, metric in row.items()}


def plain(value: Any) -> Any:
    """Return the reduced number of a metric, and anything else as it is."""
    return value.value if isinstance(value, Metric) else value


def finite(value: Any) -> float | None:
    """Return a metric or number as a float; None for NaN, infinity and what is no number."""
    value = plain(value)
    if hasattr(value, "item") and getattr(value, "shape", ()) == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def without_nan(value: Any) -> Any:
    """Replace NaN, which marks unscored or unknown values, by None at any depth, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _detached(values: Any) -> Tensor | float:
    if hasattr(values, "detach"):
        return values.detach()
    if isinstance(values, np.ndarray) and values.ndim:
        return _tensor(values)
    try:
        return float(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected a tensor or a number as a metric's value, got {values!r}") from error


def _concatenated(metrics: Sequence[Metric]) -> Tensor:
    import torch

    return torch.cat([_flat(metric.values) for metric in metrics])


def _flat(values: Tensor | float) -> Tensor:
    """Return the elements ``[N]`` in a dtype that is exact enough to reduce them."""
    flat = (_tensor(values) if isinstance(values, float) else values).flatten()
    return flat if flat.is_floating_point() and flat.itemsize >= _EXACT_BYTES else flat.float()


def _tensor(values: Any) -> Tensor:
    import torch

    return torch.as_tensor(values)
