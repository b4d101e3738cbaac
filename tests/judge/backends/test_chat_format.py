from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgym.core.text import one_line
from flexgym.judge import JudgeFailure
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture, Reply
from flexgym.judge.backends.chat_format import chat_body, read_completion, read_models
from flexgym.judge.backends.usage import Usage

PAIR = Picture(b"one", "image/png", "first"), Picture(b"two", "image/jpeg", 'sec"ond')


def content():
    body = chat_body(ChatRequest(PAIR, 'a "text" \ud83d'), Decoding(), model="m")
    (message,) = json.loads(body)["messages"]
    assert message["role"] == "user"
    return message["content"]


def test_pictures_stand_before_the_text():
    assert content() == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,b25l"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,dHdv"}},
        {"type": "text", "text": 'a "text" \ud83d'},
    ]


def test_decoding_is_always_sent_in_full():
    body = json.loads(chat_body(ChatRequest((), ""), Decoding(), model="m"))
    del body["messages"]
    assert body == {"model": "m", "max_tokens": 2048, "temperature": 0.0, "seed": 0}


def completion(message=None, usage=None, **choice):
    choices = [{"message": {"content": "text"} if message is None else message, **choice}]
    return json.dumps({"choices": choices, "usage": usage}).encode()


def test_replies():
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    full = read_completion(completion(usage=usage, finish_reason="length"), 1.5)
    assert full == Reply("text", "length", 5, 3, 2, 1.5)
    assert read_completion(completion(), 0.0) == Reply("text")
    assert read_completion(completion(usage={"prompt_tokens_details": None}), 0.0) == Reply("text")
    assert read_completion(completion({"content": ""}), 0.0) == Reply("")


def test_refusals():
    refusal = read_completion(completion({"content": None, "refusal": "I will\nnot."}), 0.0)
    assert refusal == JudgeFailure("refused", "I will not.")
    assert read_completion(completion(finish_reason="content_filter"), 0.0).kind == "refused"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": -1}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        completion()[:-5],
    ],
)
def test_what_is_no_completion(body):
    failure = read_completion(body, 0.0)
    assert failure.kind == "server_error"
    assert len(failure.detail) < 300
    assert "\n" not in failure.detail


@pytest.mark.parametrize(
    "usage",
    ["-1", "1.5e400", "NaN", "true", "null", '"12"', "[]", "{}", "0.5", "9" * 400, "9" * 5000, "-0"],
)
def test_statistics_never_cost_a_reply(usage):
    whole = '{"choices": [{"message": {"content": "a"}%s}], "usage": %s}'
    details = (
        f'{{"prompt_tokens": {usage}, "completion_tokens": 3, "prompt_tokens_details": {{"cached_tokens": {usage}}}}}'
    )
    for document in (
        whole % ("", details),
        whole % ("", f'{{"completion_tokens": 3, "prompt_tokens_details": {usage}}}'),
    ):
        assert read_completion(document.encode(), 0.0) == Reply("a", completion_tokens=3)
    assert read_completion((whole % ("", usage)).encode(), 0.0) == Reply("a")
    assert read_completion((whole % (f', "logprobs": {usage}', "{}")).encode(), 0.0) == Reply("a")
    assert read_completion((whole % (f', "logprobs": {{"content": {usage}}}', "{}")).encode(), 0.0) == Reply("a")
    assert read_completion((whole % (f', "finish_reason": {usage}, "index": {usage}', "{}")).encode(), 0.0).text == "a"


def test_log_probabilities_are_read_as_far_as_they_are_any():
    top = [
        {"token": "no", "logprob": -3.5},
        {"token": "yes", "logprob": 1e-7},
        {"token": "Yes", "logprob": None},
        {"token": None, "logprob": -1.0},
        {"token": "maybe", "logprob": "-1"},
        {"token": "far", "logprob": float("-inf")},
        None,
        {},
    ]
    found = read_completion(completion(logprobs={"content": [{"top_logprobs": top}]}), 0.0)
    assert found.first_tokens == (("yes", 0.0), ("no", -3.5), ("far", float("-inf")))
    for nothing in (None, [], "x", [None], [{"top_logprobs": None}], [{}], {"a": 1}):
        assert read_completion(completion(logprobs={"content": nothing}), 0.0) == Reply("text")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"error": {"message": "model is\nloading", "code": 503}}, "model is loading"),
        ({"error": "out of memory"}, "out of memory"),
        ({"object": "error", "message": "context is too long"}, "context is too long"),
        ({"detail": [{"msg": "field required"}]}, "field required"),
        ({"error": {"code": 7}}, '{"code": 7}'),
        ({"choices": [], "error": {"message": "overloaded"}}, "overloaded"),
        ({"choices": [{"message": {"content": None}, "error": {"message": "upstream died"}}]}, "upstream died"),
        ({"choices": [{"message": {"content": None}}], "error": {"message": "cut off"}}, "cut off"),
    ],
)
def test_an_error_in_a_reply_keeps_its_words(document, words):
    failure = read_completion(json.dumps(document).encode(), 0.0)
    assert failure.kind == "server_error"
    assert words in failure.detail


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda it: st.lists(it) | st.dictionaries(
    st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "data", "id"]), it)))  # fmt: skip
def test_no_body_raises_what_is_not_expected(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    assert isinstance(read_completion(body, 0.0), Reply | JudgeFailure)
    try:
        names = read_models(body)
    except ValueError:
        return
    assert all(isinstance(name, str) for name in names)


def test_models():
    assert read_models(b'{"object": "list", "data": [{"id": "a", "x": 1}, {"id": "b"}]}') == ["a", "b"]
    with pytest.raises(ValueError, match="did not return a list of models"):
        read_models(b'{"data": [{}]}')


def test_one_line_is_short():
    assert one_line("a\n  b\tc") == "a b c"
    assert len(one_line("x" * 10**6)) == 200


@pytest.mark.parametrize(
    "tokens", ["9" * 4000, "1e999", "NaN", "-3", "null", '"many"', "2.5", "true", "[]", "9" * 290, "-Infinity"]
)
def test_no_count_of_tokens_costs_a_reply(tokens):
    counts = f'{{"prompt_tokens": {tokens}, "completion_tokens": 3, "prompt_tokens_details": {tokens}}}'
    reply = read_completion(b'{"choices": [{"message": {"content": "fine"}}], "usage": %b}' % counts.encode(), 0.1)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("fine", 0, 3)
    usage = Usage()
    usage.count([reply])
    assert usage.metrics()["prompt_tokens"] == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"choices": ' + b"[" * 100_000, "not a chat completion"),
        (b'{"choices": ' + b'[{"a":' * 300 + b"1" + b"}]" * 300 + b"}", "nested more than 100"),
        (b'{"choices": [{"message": {"content": "\xff"}}]}', "UTF-8"),
        (b"null", "not a chat completion"),
    ],
)
def test_bodies_that_are_no_completion_are_failures(body, reason):
    failure = read_completion(body, 0.1)
    assert failure.kind == "server_error"
    assert reason in failure.detail
    with pytest.raises(ValueError, match="did not return a list of models"):
        read_models(body)


def test_half_a_surrogate_pair_in_a_reply_is_replaced():
    reply = read_completion(rb'{"choices": [{"message": {"content": "a \ud800 b"}}], "id": "\udfff"}', 0.1)
    assert reply.text == "a \ufffd b"
