"""The real vLLM, on the CPU, with a tiny Qwen3-VL: in process, as a server, and against transformers.

Run in the environment that `.ci/vllm_environment` builds. Nothing here skips: where vLLM cannot start, CI must fail.
"""

import base64
import itertools
import json
import socket

import numpy as np
import pytest

from flexgym.commands.serve import ServeOptions, running_server
from flexgym.judge.assessment import Assessment
from flexgym.judge.backends.base import ChatRequest, Decoding, Reply
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.backends.vllm_engine import VLLMBackend
from flexgym.judge.dialect import FLEX
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.sources import EMBEDDED_JUDGE, locate_judge, read_judge_config
from flexgym.shapes.sampling import draw_group
from tests.judge.backends.tiny_qwen_vl import CONTEXT, picture, save_tiny_qwen_vl

pytestmark = pytest.mark.vllm

GREEDY = Decoding(max_tokens=24)
KV_CACHE_BYTES = 256 * 2**20
BLOCK = 32
GROUP = 24
# The beginning that pairs with the same first image share: "<|im_start|>user\n", 6 tokens, a mark, and 64 tokens of a
# image of 256x256. Whole blocks of it are kept.
SHARED = (6 + 1 + 64) // BLOCK * BLOCK
QUESTION = "Which of the two images follows the prompt better: 'a red cube left of a blue ball'? Answer in JSON."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_qwen_vl(tmp_path_factory.mktemp("judge") / "tiny")


@pytest.fixture(scope="module")
def engine(folder):
    with pytest.MonkeyPatch.context() as patch:
        # Lets a test hand the engine's process a function that counts what the vision encoder sees.
        patch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
        backend = VLLMBackend(
            folder,
            dtype="float32",
            enforce_eager=True,
            max_model_len=CONTEXT,
            max_pictures=4,
            block_size=BLOCK,
            kv_cache_memory_bytes=KV_CACHE_BYTES,
            max_num_batched_tokens=2 * CONTEXT,
            structured_outputs_config={"disable_any_whitespace": True, "backend": "xgrammar"},
        )
        yield backend
        backend.close()


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    options = ServeOptions(
        str(folder),
        port=free_port(),
        dtype="float32",
        enforce_eager=True,
        max_model_len=CONTEXT,
        max_pictures=4,
        extra=(
            f"--block-size={BLOCK}",
            f"--kv-cache-memory-bytes={KV_CACHE_BYTES}",
            f"--max-num-batched-tokens={2 * CONTEXT}",
        ),
    )
    with running_server(options, log=tmp_path_factory.mktemp("server") / "vllm.log", limit=600.0):
        yield options.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pair(first: int, second: int, size: tuple[int, int], text: str = QUESTION) -> ChatRequest:
    return ChatRequest((picture(first, size), picture(second, size)), text)


def test_the_embedded_judge_says_the_same_on_all_backends(tmp_path):
    config = read_judge_config(EMBEDDED_JUDGE)
    decoding, folder = Decoding(**config.decoding), locate_judge(EMBEDDED_JUDGE)
    rng = np.random.default_rng(0)
    groups = [draw_group(rng, 3) for _ in range(4)]
    requests = [
        ChatRequest(
            tuple(part for sample in pair for part in encode_sample(sample, Inputs())),
            FLEX.template("image").fill(group.prompt.text, "image", (1, 1)),
        )
        for group in groups
        for pair in itertools.permutations(group.samples, 2)
    ]
    options = ServeOptions(
        EMBEDDED_JUDGE,
        port=free_port(),
        dtype="float32",
        enforce_eager=True,
        max_pictures=8,
        extra=(f"--kv-cache-memory-bytes={KV_CACHE_BYTES}",),
    )
    with running_server(options, log=tmp_path / "vllm.log", limit=600.0):
        server = ServerBackend(options.url)
        served = server.complete(requests, decoding)
        server.close()
    own = TransformersBackend(folder).complete(requests, decoding)
    assert [reply.text for reply in served] == [reply.text for reply in own]
    assert all(isinstance(FLEX.parse(reply.text, reply.finish_reason), Assessment) for reply in own)


def groups_of_pairs() -> list[ChatRequest]:
    """All pairs of two groups, those with the same first image together."""
    return [
        pair(100 * group + first, 100 * group + second, (256, 256))
        for group in (1, 2)
        for first, second in itertools.combinations(range(GROUP), 2)
    ]


def sent_whole(requests: list[ChatRequest]) -> int:
    """Bytes of all images in all requests, in base64."""
    return sum(len(base64.b64encode(shown.data)) for request in requests for shown in request.pictures)


def test_all_backends_write_the_same(engine, folder, url):
    requests = [
        pair(0, 1, (64, 64)),
        pair(1, 0, (64, 64)),
        pair(0, 1, (64, 64), "And now?"),
        pair(2, 3, (96, 160)),
        pair(4, 5, (100, 70)),  # resized to multiples of 32 pixels
        pair(6, 7, (400, 300)),  # and made smaller
        ChatRequest(tuple(picture(seed, (64, 64)) for seed in range(4)), "Four of them."),
        ChatRequest((), "None."),
    ]
    server, model = ServerBackend(url), TransformersBackend(folder, dtype="float32", batch_size=3)
    seen = {}
    for name, backend in {"vllm": engine, "server": server, "transformers": model}.items():
        replies = backend.complete(requests, GREEDY)
        assert all(isinstance(reply, Reply) for reply in replies), (name, replies)
        seen[name] = [
            (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) for reply in replies
        ]
    server.close()
    assert seen["vllm"] == seen["transformers"]
    assert seen["server"] == seen["transformers"]
    # Order, images and text all matter, or agreement would mean little.
    assert len({text for text, *_ in seen["vllm"]}) == len(requests)


def test_a_request_asked_again_is_read_from_the_cache(engine):
    request = pair(10, 11, (256, 256))
    (first,), (second,) = engine.complete([request], GREEDY), engine.complete([request], GREEDY)
    assert second.text == first.text
    # All whole blocks but the last, of which at least one token is read for its logits.
    assert second.cached_tokens == (second.prompt_tokens - 1) // BLOCK * BLOCK
    assert first.seconds > 0


def test_sampling_repeats_by_its_seed(engine):
    request = pair(0, 1, (64, 64))
    texts = [
        engine.complete([request], Decoding(max_tokens=24, temperature=1.0, seed=seed))[0].text for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_schema_is_followed(engine):
    schema = {
        "type": "object",
        "properties": {"winner": {"type": "string", "enum": ["Image 1", "Image 2"]}},
        "required": ["winner"],
        "additionalProperties": False,
    }
    (reply,) = engine.complete([pair(0, 1, (64, 64))], Decoding(max_tokens=64, json_schema=schema))
    assert json.loads(reply.text)["winner"] in ("Image 1", "Image 2")
    assert reply.finish_reason == "stop"


def test_an_impossible_request_fails_alone(engine):
    outcomes = engine.complete([pair(0, 1, (64, 64), "x" * CONTEXT), pair(0, 1, (64, 64))], GREEDY)
    assert isinstance(outcomes[0], JudgeFailure)
    assert outcomes[0].kind == "server_error"
    assert isinstance(outcomes[1], Reply)


def test_engine_encodes_each_picture_of_a_group_once(engine):
    def count_pictures(worker):
        def count(module, args, kwargs):
            grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
            module.pictures_seen = getattr(module, "pictures_seen", 0) + len(grid)

        worker.get_model().visual.register_forward_pre_hook(count, with_kwargs=True)

    def pictures_seen(worker):
        return worker.get_model().visual.pictures_seen

    requests = groups_of_pairs()
    engine._llm.collective_rpc(count_pictures)
    before = engine.metrics()
    replies = engine.complete(requests, Decoding(max_tokens=1))
    used = {name: value - before[name] for name, value in engine.metrics().items()}
    (encoded,) = engine._llm.collective_rpc(pictures_seen)
    report("engine", requests, replies, sent=0, pictures=encoded, read=used["prompt_tokens"] - used["cached_tokens"])
    assert used["pictures_encoded"] == 2 * GROUP
    assert encoded == 2 * GROUP
    # All but the first pair with a given first image, and there are 23 of those in a group of 24.
    assert used["cached_tokens"] == (len(requests) - 2 * (GROUP - 1)) * SHARED
    assert used["prefix_cache_hits"] == used["cached_tokens"]


def report(
    name: str,
    requests: list[ChatRequest],
    replies: list[Reply | JudgeFailure],
    *,
    sent: int,
    pictures: int,
    read: float,
) -> None:
    """Print one line of measurement, for `pytest -s`."""
    assert all(isinstance(reply, Reply) for reply in replies), replies
    shown = sum(len(request.pictures) for request in requests)
    print(
        f"\n{name}: {len(requests)} pairs of 2 groups of {GROUP} images: bytes sent {sent:,} instead of"
        f" {sent_whole(requests):,}; images encoded or sent {pictures} instead of {shown};"
        f" tokens prefilled {read:,.0f} instead of {sum(reply.prompt_tokens for reply in replies):,}"
    )


def test_first_tokens_are_told_alike_by_all_backends(engine, folder, url):
    request, decoding = pair(0, 1, (64, 64)), Decoding(max_tokens=1, top_logprobs=5)
    backends = [engine, TransformersBackend(folder, dtype="float32"), ServerBackend(url)]
    told = [backend.complete([request], decoding)[0].first_tokens for backend in backends]
    for tokens in told:
        assert [token for token, _ in tokens[:3]] == [token for token, _ in told[0][:3]]
        np.testing.assert_allclose([value for _, value in tokens[:5]], [value for _, value in told[0][:5]], atol=1e-2)
