"""Calls of the vLLM backend to the engine, recorded by a stub: sleep needs a GPU. The real one is in test_vllm.py."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from safetensors.torch import save_file

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.judge.backends.base import ChatRequest, Decoding, Reply
from flexgym.judge.backends.vllm_engine import VLLMBackend
from flexgym.judge.protocol import JudgeFailure
from tests.judge.backends.tiny_qwen_vl import picture

REQUESTS = [ChatRequest((picture(0), picture(1)), "fine"), ChatRequest((picture(1), picture(0)), "too long")]


class StandIn:
    """Records the calls of `vllm.LLM`; rejects one text as vLLM rejects a prompt that is too long."""

    def __init__(self, model, **settings):
        self.settings, self.calls, self.queue, self.interrupt = settings, [], [], False
        self.llm_engine = SimpleNamespace(abort_request=lambda names, internal: self.calls.append(("abort", names)))

    def sleep(self, level):
        self.calls.append(("sleep", level))

    def wake_up(self):
        self.calls.append(("wake_up",))

    def enqueue_chat(self, messages, sampling, **settings):
        *pictures, text = messages[0]["content"]
        if text["text"] == "too long":
            raise ValueError("the prompt\nis too long")
        self.calls.append(("ask", [part["uuid"] for part in pictures], settings["chat_template_kwargs"]))
        self.queue.append(text["text"])
        return [f"{len(self.queue) - 1}-3f2a"]

    def wait_for_completion(self, use_tqdm):
        if self.interrupt:
            raise KeyboardInterrupt
        written = SimpleNamespace(text="reply", finish_reason="stop", token_ids=[1, 2], logprobs=None)
        times = SimpleNamespace(queued_ts=1.0, last_token_ts=3.5)
        answers = [
            SimpleNamespace(outputs=[written], prompt_token_ids=[0] * 7, num_cached_tokens=4, metrics=times)
            for _ in self.queue
        ]
        self.queue.clear()
        return answers


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.exceptions", "vllm.sampling_params")}
    modules["vllm"].LLM, modules["vllm"].SamplingParams = StandIn, SimpleNamespace
    for name in ("exceptions", "sampling_params"):
        setattr(modules["vllm"], name, modules[f"vllm.{name}"])
    modules["vllm.exceptions"].VLLMClientError = type("VLLMClientError", (Exception,), {})
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_one_failure_among_replies(vllm, tmp_path):
    backend = VLLMBackend(tmp_path)
    failure, reply = backend.complete(REQUESTS[::-1], Decoding())
    assert failure == JudgeFailure("server_error", "the prompt is too long")
    assert reply == Reply("reply", "stop", prompt_tokens=7, completion_tokens=2, cached_tokens=4, seconds=2.5)
    ids = [shown.id for shown in REQUESTS[0].pictures]
    assert backend._llm.calls == [("ask", ids, {"enable_thinking": False})]


def test_settings_of_the_checkpoint_are_switched_off(vllm, tmp_path):
    settings = VLLMBackend(tmp_path, max_pictures=2)._llm.settings
    assert settings["generation_config"] == "vllm"
    assert settings["enable_prefix_caching"] is True
    assert settings["limit_mm_per_prompt"] == {"image": 2, "video": 0}
    assert "trust_remote_code" not in settings
    with pytest.raises(ConfigError, match="max_pictures must be at least 1, got 0"):
        VLLMBackend(tmp_path, max_pictures=0)


def test_the_engine_sleeps_between_uses(vllm, tmp_path):
    backend = VLLMBackend(tmp_path, share_gpu=True)
    calls = backend._llm.calls
    assert backend._llm.settings["enable_sleep_mode"] is True
    assert calls == [("sleep", 1)]
    backend.complete(REQUESTS[:1], Decoding())
    assert [call[0] for call in calls] == ["sleep", "wake_up", "ask", "sleep"]


def test_nothing_is_left_over_after_an_interrupt(vllm, tmp_path):
    backend = VLLMBackend(tmp_path, share_gpu=True)
    backend._llm.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        backend.complete(REQUESTS, Decoding())
    assert backend._llm.calls[-2:] == [("abort", ["0-3f2a"]), ("sleep", 1)]


def test_a_missing_library_is_explained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"flexgym\[vllm\].*judge serve"):
        VLLMBackend(tmp_path)


def test_a_missing_checkpoint_is_named(vllm, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        VLLMBackend(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(CheckpointError, match="safetensors"):
        VLLMBackend(tmp_path)
