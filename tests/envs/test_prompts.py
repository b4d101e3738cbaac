from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from gymnasium.vector.utils import batch_space

from flexgym.core.errors import PromptSourceError
from flexgym.envs.prompts import PromptSource, load_prompts
from flexgym.envs.spaces import MAX_PROMPT_LENGTH, PromptSpace
from flexgym.types import Prompt


def test_space_holds_text_in_any_script():
    space = PromptSpace()
    assert 'a red cube, 日本語 "quoted"' in space
    assert "" not in space
    assert "x" * (MAX_PROMPT_LENGTH + 1) not in space
    assert 3 not in space
    assert space.sample() in space


def test_space_survives_copy_pickle_and_batching():
    space = PromptSpace(40)
    assert pickle.loads(pickle.dumps(space)) == copy.deepcopy(space) == space != PromptSpace(41)
    assert ("a red cube", "ünïcode") in batch_space(space, 2)


def test_text_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red cube\r\n\r\n  日本語  \n".encode())
    assert [prompt.text for prompt in load_prompts(str(path), "image")] == ["a red cube", "日本語"]


def test_jsonl_file_keeps_the_other_keys(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "a red cube", "category": "colours", "n": [1]}\n\n{"prompt": "two\u2028lines"}\n', "utf-8"
    )
    first, second = load_prompts(path, "image")
    assert first == Prompt("a red cube", {"category": "colours", "n": [1]})
    assert second.text == "two\u2028lines"


def test_sequences_of_any_kind():
    source = load_prompts(("a", Prompt("b", {"k": 1}), {"prompt": "c", "k": 2}), "image")
    assert [(prompt.text, prompt.metadata.get("k")) for prompt in source] == [("a", None), ("b", 1), ("c", 2)]
    assert load_prompts(source, "image") is source
    pickle.loads(pickle.dumps(source))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_built_in_set(kind):
    from flexgym.shapes.captions import training_prompts

    assert [prompt.text for prompt in load_prompts(None, kind)] == training_prompts(kind)


def test_draw_depends_on_the_seed_and_reaches_all():
    source = PromptSource(["a", "b", "c"])
    draws = [[source.draw(rng).text for _ in range(30)] for rng in (np.random.default_rng(1), np.random.default_rng(1))]
    assert draws[0] == draws[1]
    assert set(draws[0]) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "is empty"),
        ("p.txt", b" \n\n", "is empty"),
        ("p.txt", b"caf\xe9", "not UTF-8 .byte 3"),
        ("p.txt", b"ok\n" + b"x" * (MAX_PROMPT_LENGTH + 1), "line 2 .* 2049 characters"),
        ("p.jsonl", b'{"prompt": "a"}\n\n{"prompt": ', "line 3 .*not valid JSON"),
        ("p.jsonl", b'{"text": "a"}', "line 1 .*key 'prompt'"),
        ("p.jsonl", b'["a"]', "line 1 .*object"),
        ("p.jsonl", b'{"prompt": 3}', "line 1"),
        ("p.csv", b"a", r"\.txt or \.jsonl"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PromptSourceError, match=message):
        load_prompts(path, "image")


def test_missing_file_and_wrong_types(tmp_path):
    with pytest.raises(PromptSourceError, match="pass a single prompt as a list"):
        load_prompts("a red cube", "image")
    with pytest.raises(PromptSourceError, match="path or a sequence"):
        load_prompts(3, "image")
    with pytest.raises(PromptSourceError, match="entry 1"):
        load_prompts(["a", 3], "image")
