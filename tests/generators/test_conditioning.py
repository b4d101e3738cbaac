from __future__ import annotations

import torch

from flexgym.generators.conditioning import Conditioning, EmbeddingCache, stack_rows, trim_padding


def conditioning():
    return Conditioning({"text": torch.arange(6.0).view(3, 2)}, {"text": torch.full((1, 2), 9.0)})


def test_repeat_keeps_the_rows_of_a_group_together():
    assert conditioning().repeat(2).prompts["text"][:, 0].tolist() == [0, 0, 2, 2, 4, 4]


def test_index_takes_rows_in_the_given_order():
    assert conditioning().index([2, 0]).prompts["text"].tolist() == [[4, 5], [0, 1]]
    assert len(conditioning().index(slice(1, 3))) == 2


def test_unconditional_has_a_row_for_each_prompt():
    assert conditioning().unconditional()["text"].shape == (3, 2)


def test_shorter_texts_end_with_zeros():
    rows = stack_rows([torch.ones(1, 2, 3), torch.ones(2, 4, 3)])
    assert rows.sum((1, 2)).tolist() == [6, 12, 12]
    assert rows[0, 2:].abs().sum() == 0
    assert stack_rows([torch.ones(1, 5), torch.zeros(1, 5)]).shape == (2, 5)


def test_padding_that_all_rows_share_is_trimmed():
    text = {"states": torch.arange(12.0).view(2, 3, 2), "mask": torch.tensor([[1.0, 1, 0], [1, 0, 0]])}
    both = trim_padding(text, "mask")
    assert both["states"].shape == (2, 2, 2)
    assert both["mask"].tolist() == [[1, 1], [1, 0]]
    first = trim_padding({name: tensor[:1] for name, tensor in text.items()}, "mask")
    assert list(first) == ["states"], "nothing is padded, and the mask is left out"


def test_cache_drops_the_least_recently_used():
    encoded = []

    def encode(text):
        encoded.append(text)
        return {"text": torch.zeros(1, 4)}  # 16 bytes

    cache = EmbeddingCache(max_bytes=32)
    for text in ("a", "b", "a", "c", "a", "b"):
        cache.get(text, encode)
    assert encoded == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_an_embedding_larger_than_the_cache_is_still_served():
    cache = EmbeddingCache(max_bytes=1)
    assert cache.get("a", lambda _: {"text": torch.ones(1, 4)})["text"].sum() == 4
