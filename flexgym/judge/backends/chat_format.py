"""Encode and decode chat completions of the OpenAI HTTP API as bytes."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from flexgym.core.json_text import parse_json
from flexgym.core.text import one_line
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture, Reply
from flexgym.judge.protocol import JudgeFailure

_MOST_TOKENS = 2**53


def _count(value: Any) -> int | None:
    """Return a number of tokens; None for anything else, since a statistic must not cost a reply."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_count = is_number and 0 <= value <= _MOST_TOKENS and int(value) == value
    return int(value) if is_count else None


def _object(value: Any) -> Any:
    """Return an object of statistics; None for anything else."""
    return value if isinstance(value, dict) else None


_Count = Annotated[int | None, BeforeValidator(_count)]


class _Details(BaseModel):
    cached_tokens: _Count = None


class _Usage(BaseModel):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: Annotated[_Details | None, BeforeValidator(_object)] = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Alternative(BaseModel):
    token: str
    logprob: Annotated[float, Field(le=0.0)]


class _Position(BaseModel):
    top_logprobs: list[_Alternative] = Field(default_factory=list)


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage | None, BeforeValidator(_object)] = None


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
    try:
        completion = _Completion.model_validate(parse_json(body, lenient=True))
    except ValueError as error:
        return JudgeFailure("server_error", f"the server's reply is not a chat completion: {first_error(error)}")
    choice = completion.choices[0]
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return JudgeFailure("refused", one_line(choice.message.refusal or "the server's content filter stopped it"))
    if choice.message.content is None:
        return JudgeFailure("server_error", "the server's reply contains no text (message.content is null)")
    usage = completion.usage or _Usage()
    return Reply(
        text=choice.message.content,
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        cached_tokens=(usage.prompt_tokens_details or _Details()).cached_tokens or 0,
        seconds=seconds,
        first_tokens=_first_tokens(choice.logprobs),
    )


def _first_tokens(logprobs: _Logprobs | None) -> tuple[tuple[str, float], ...]:
    if logprobs is None or not logprobs.content:
        return ()
    candidates = [(one.token, one.logprob) for one in logprobs.content[0].top_logprobs]
    return tuple(sorted(candidates, key=lambda one: -one[1]))


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
