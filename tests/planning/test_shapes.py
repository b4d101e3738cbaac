"""Operations whose output shapes are cached, compared with operations that run."""

from __future__ import annotations

import pytest
import torch

from flexgym.planning.shapes import ShapeMemory
from flexgym.planning.tracing import trace

aten = torch.ops.aten


def test_alike_inputs_have_outputs_of_the_same_form_and_storages_of_their_own():
    memory, left = ShapeMemory(), torch.empty(3, 5, device="meta").t()
    first, second = (memory.run(aten.add.Tensor, (left, 1.0), {}) for _ in range(2))
    assert (first.shape, first.stride(), first.dtype) == (second.shape, second.stride(), second.dtype)
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata
    assert len(memory._forms) == 1


def test_numbers_of_another_kind_are_another_input():
    memory, whole = ShapeMemory(), torch.empty(3, dtype=torch.int64, device="meta")
    assert memory.run(aten.add.Tensor, (whole, 1), {}).dtype == torch.int64
    assert memory.run(aten.add.Tensor, (whole, 1.0), {}).dtype == torch.float32


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_views_changes_in_place_and_data_are_left_alone(device: str):
    memory, values = ShapeMemory(), torch.ones(2, 3, device=device)
    for _ in range(2):
        for func, args in ((aten.view.default, [6]), (aten._unsafe_view.default, [6]), (aten.add_.Tensor, 1)):
            out = memory.run(func, (values, args), {})
            assert out.untyped_storage()._cdata == values.untyped_storage()._cdata
    assert not memory._forms
    if device == "cpu":
        assert values.unique().item() == 3.0


def test_what_is_remembered_counts_as_what_is_computed(monkeypatch: pytest.MonkeyPatch):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, device="meta")

    def work() -> torch.Tensor:
        out = torch.zeros(4, 3, 8, device="meta")
        for _ in range(3):
            out = layer(out)
        out.sum().backward()
        return out

    work()  # gradients are there
    there = [tensor for weight in layer.parameters() for tensor in (weight, weight.grad) if tensor is not None]
    remembered = trace(work, there)
    monkeypatch.setattr(ShapeMemory, "run", lambda self, func, args, kwargs: func(*args, **kwargs))
    assert trace(work, there) == remembered
