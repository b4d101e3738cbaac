"""State as JSON and safetensors: whatever training keeps comes back to the bit, and nothing else is read or written."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgym.core.errors import CheckpointError
from flexgym.core.state_files import MAX_DEPTH, STATE, TENSORS, read_state, write_state

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(tree=st.dictionaries(st.one_of(st.text(), st.integers()), TREES, max_size=4))
@settings(max_examples=60)
def test_plain_values_come_back_with_their_types(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("state")
    write_state(folder, tree)
    assert repr(read_state(folder)) == repr(tree)  # in which tuples, lists, 1 and 1.0 differ


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_tensors_come_back_to_the_bit(dtype, tmp_path: Path):
    value = (torch.randn(3, 4) * 3).to(dtype)
    tree = {"a": value, "b": [value.T, value[:, 1], torch.zeros(()).to(dtype), torch.empty(0, dtype=dtype)], 3: value}
    write_state(tmp_path, tree)
    found = read_state(tmp_path)
    pairs = [(value, found["a"]), (value, found[3]), *zip(tree["b"], found["b"], strict=True)]
    assert all(torch.equal(ours, theirs) and ours.dtype == theirs.dtype for ours, theirs in pairs)
    assert (tmp_path / TENSORS).stat().st_size < 3 * value.nbytes + 1000, "a tensor in two places is written once"


def test_numpy_comes_back_as_numpy(tmp_path: Path):
    tree = {"array": np.arange(6.0).reshape(2, 3).T, "scalar": np.float32(0.1), "none": np.zeros((0, 2), np.uint8)}
    write_state(tmp_path, tree)
    found = read_state(tmp_path)
    assert all(type(tree[name]) is type(found[name]) and tree[name].dtype == found[name].dtype for name in tree)
    assert all(np.array_equal(tree[name], found[name]) for name in tree)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/flexgym-was-here",)


@pytest.mark.parametrize("value", [Payload(), {1, 2}, b"bytes", lambda: 0, np.array(["text"]), np.array([None]), 1j])
def test_anything_else_is_refused_with_its_place(value, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"^optimizer/0/moments: expected plain values.*got "):
        write_state(tmp_path, {"optimizer": [{"moments": value}]})
    with pytest.raises(CheckpointError, match=r"^a: expected text or whole numbers as keys, got \(1, 2\)"):
        write_state(tmp_path, {"a": {(1, 2): 0}})


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"version": 1, "state": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"version": 2, "state": {"dict": []}}', "expected state of version 1"),
        ('{"version": 1, "state": [1]}', "expected a mapping, got list"),
        ('{"version": 1, "state": {"dict": [["a", {"tensor": "lost"}]]}}', "a: the tensor 'lost' is missing"),
        ('{"version": 1, "state": {"dict": [["a", {"pickle": "gASV"}]]}}', "a: .* is no value of a checkpoint"),
        ('{"version": 1, "state": {"dict": [["a"]]}}', "expected pairs"),
        ('{"version": 1, "state": {"dict": [[[1], 2]]}}', "as keys"),
        ('{"version": 1, "state": {"dict": []}}', "does not mention the tensors"),
        (json.dumps({"version": 1, "state": nested(MAX_DEPTH + 1)}), f"at most {MAX_DEPTH} levels"),
    ],
)
def test_other_documents_are_refused(text, message, tmp_path: Path):
    write_state(tmp_path, {"a": torch.zeros(2)})
    (tmp_path / STATE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_state(tmp_path)


@pytest.mark.parametrize("name", [STATE, TENSORS])
def test_a_pickle_in_place_of_a_file_is_not_opened(name, tmp_path: Path):
    write_state(tmp_path, {"a": math.pi})
    (tmp_path / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        read_state(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="one of them is missing"):
        read_state(tmp_path)
    assert not Path("/tmp/flexgym-was-here").exists()
