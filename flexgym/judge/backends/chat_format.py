"""Encode and decode chat completions of the OpenAI HTTP API as bytes."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from flexgym.core.json_text import parse_json
from flexgym.core.text import one_line
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture, Reply
from flexgym.judge.protocol import JudgeFailure

_MAX_COUNT = 2**53


# Only what a reply needs has a type. Statistics may be missing or wrong, and never cost the reply.
class _Message(BaseModel):
    content: str | None = None
    refusal: Any = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None
    logprobs: Any = None
    error: Any = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None
    error: Any = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def chat_body(request: ChatRequest, decoding: Decoding, *, model: str) -> bytes:
    """Encode the JSON body of a chat completion request.

    The base64 data of images is concatenated as bytes, since passing it through a JSON encoder would dominate the cost.

    Args:
        request: images and text.
        decoding: decoding settings, always sent in full, since servers fill gaps from the checkpoint's own settings.
        model: name of the model on the server.
    """
    settings: dict[str, Any] = {
        "model": model,
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "seed": decoding.seed,
    }
    if decoding.top_logprobs:
        settings |= {"logprobs": True, "top_logprobs": decoding.top_logprobs}
    if decoding.json_schema is not None:
        schema = {"name": "assessment", "schema": decoding.json_schema, "strict": True}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    parts = [_picture_part(picture) for picture in request.pictures]
    parts.append(_json({"type": "text", "text": request.text}))
    head = _json(settings)[:-1]
    return b"".join((head, b', "messages": [{"role": "user", "content": [', b", ".join(parts), b"]}]}"))


def read_completion(body: bytes, seconds: float) -> Reply | JudgeFailure:
    """Decode the body of a successful response.

    Args:
        body: untrusted bytes.
        seconds: time from sending the request to the last byte, in seconds.

    Returns:
        The reply, or a failure: ``refused`` if the model declined, ``server_error`` if the body is not a chat
        completion.
    """
    document = None
    try:
        document = parse_json(body, lenient=True)
        completion = _Completion.model_validate(document)
    except ValueError as error:
        words = _error_words(document) or first_error(error)
        return JudgeFailure("server_error", f"the server's reply is not a chat completion: {words}")
    choice = completion.choices[0]
    refusal = choice.message.refusal if isinstance(choice.message.refusal, str) else ""
    if refusal or choice.finish_reason == "content_filter":
        return JudgeFailure("refused", one_line(refusal or "the server's content filter stopped it"))
    if choice.message.content is None:
        words = _error_words({"error": choice.error or completion.error}) or "message.content is null"
        return JudgeFailure("server_error", f"the server's reply contains no text ({words})")
    return Reply(
        text=choice.message.content,
        finish_reason=choice.finish_reason
        if isinstance(choice.finish_reason, str) and choice.finish_reason
        else "stop",
        prompt_tokens=_count(completion.usage, "prompt_tokens"),
        completion_tokens=_count(completion.usage, "completion_tokens"),
        cached_tokens=_count(completion.usage, "prompt_tokens_details", "cached_tokens"),
        seconds=seconds,
        first_tokens=_first_tokens(choice.logprobs),
    )


def _error_words(document: Any) -> str:
    """Return what a server says about an error in a response with status 200; empty if it says nothing."""
    error = _item(document, "error") or _item(document, "detail") or _item(document, "message")
    words = _item(error, "message") or error
    return one_line(words if isinstance(words, str) else json.dumps(words)) if words else ""


def _item(document: Any, key: str) -> Any:
    return document.get(key) if isinstance(document, Mapping) else None


def _count(usage: Any, *path: str) -> int:
    """Return a token count; 0 if it is missing or no count."""
    for key in path:
        usage = _item(usage, key)
    valid = isinstance(usage, int | float) and not isinstance(usage, bool) and 0 <= usage <= _MAX_COUNT
    return int(usage) if valid and usage == int(usage) else 0


def _first_tokens(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """Return the alternatives of the first token, most likely first; those that have no log-probability are dropped."""
    content = _item(logprobs, "content")
    alternatives = _item(content[0], "top_logprobs") if isinstance(content, list) and content else None
    if not isinstance(alternatives, list):
        return ()
    stated = [(_item(one, "token"), _item(one, "logprob")) for one in alternatives]
    valid = [
        (token, min(float(value), 0.0))  # rounding can lift it slightly above 0
        for token, value in stated
        if isinstance(token, str) and isinstance(value, int | float) and not isinstance(value, bool) and value < 1.0
    ]
    return tuple(sorted(valid, key=lambda one: -one[1]))


def read_models(body: bytes) -> list[str]:
    """Decode the model names from the body of ``/v1/models``.

    Args:
        body: untrusted bytes.

    Raises:
        ValueError: if the body is not a list of models.
    """
    try:
        return [model.id for model in _Models.model_validate(parse_json(body, lenient=True)).data]
    except ValueError as error:
        raise ValueError(f"/models did not return a list of models: {first_error(error)}") from None


def _picture_part(picture: Picture) -> bytes:
    url = b'"data:%b;base64,%b"' % (picture.media_type.encode(), b64encode(picture.data))
    return b'{"type": "image_url", "image_url": {"url": %b}}' % url


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def first_error(error: ValueError) -> str:
    """Describe why JSON was not accepted, in one line: the first problem that pydantic found, or that of the JSON."""
    if not isinstance(error, ValidationError):
        return one_line(str(error))
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return one_line(f"{place}: {first['msg']}" if place else first["msg"])
