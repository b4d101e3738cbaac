from __future__ import annotations

import torch

from flexgym.generators.conditioning import Conditioning, EmbeddingCache


def conditioning():
    return Conditioning({"text": torch.arange(6.0).view(3, 2)}, {"text": torch.full((1, 2), 9.0)})


def test_repeat_keeps_the_rows_of_a_group_together():
    assert conditioning().repeat(2).prompts["text"][:, 0].tolist() == [0, 0, 2, 2, 4, 4]


def test_index_takes_rows_in_the_given_order():
    assert conditioning().index([2, 0]).prompts["text"].tolist() == [[4, 5], [0, 1]]
    assert len(conditioning().index(slice(1, 3))) == 2


def test_unconditional_has_a_row_for_each_prompt():
    assert conditioning().unconditional()["text"].shape == (3, 2)


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
