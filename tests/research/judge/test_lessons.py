from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from flexgym.judge import parse_assessment
from flexgym.judge.backends.base import ChatRequest, Decoding
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.dialect import FLEX
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.shapes.brief import brief_assessment, cannot_tell, view
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.sampling import draw_spec
from flexgym.shapes.splits import compositions, split_of
from research.judge.candidates import draw_rendered
from research.judge.checkpoint import NUM_FRAMES, build_judge, build_tokenizer, save_judge
from research.judge.lessons import GROUPS, LENGTHS, Lessons, Phase, Writer, patches, shown_worn, unread
from research.judge.training import loss_of_replies

KINDS = ("image", "video")
TOKENIZER = build_tokenizer()


def lessons(*, described=0.0, seed=0):
    return Lessons(Phase("a phase", 10, described), {"image": {}, "video": {}}, seed=seed)


def replies(batch):
    """Texts that a batch teaches, row by row."""
    rows = batch.places // batch.tokens.shape[1]
    return [TOKENIZER.decode(batch.targets[rows == row]) for row in range(len(batch.tokens))]


@pytest.mark.parametrize("step", [0, 1])
def test_a_lesson_on_pairs_teaches_whole_assessments(step):
    batch = lessons()[step]
    kind = KINDS[step]
    assert batch.frames.shape == (3 * GROUPS[kind], LENGTHS[kind], 32, 32, 3)
    assert len(batch.tokens) == 3 * GROUPS[kind]
    for reply, tokens in zip(replies(batch), batch.tokens, strict=True):
        assert reply.endswith("<|im_end|>")
        assert parse_assessment(reply.removesuffix("<|im_end|>")).side in (0, 1)
        assert TOKENIZER.decode(tokens).count("<|image_pad|>") == 2 * 16 * LENGTHS[kind]
    shown = batch.shown.view(len(batch.tokens), 2, -1) // LENGTHS[kind]
    sides = [tuple(row[:, 0].tolist()) for row in shown]
    assert sides[:3] == [(0, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize("step", [0, 1])
def test_a_lesson_of_descriptions_has_one_sample_in_each_row(step):
    batch = lessons(described=1.0)[step]
    length = LENGTHS[KINDS[step]]
    assert batch.shown.tolist() == list(range(len(batch.tokens) * length))
    assert all("reason" not in reply and len(reply) > 10 for reply in replies(batch))


def test_a_lesson_follows_from_seed_and_step():
    one, same, other = lessons()[4], lessons()[4], lessons(seed=1)[4]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.frames, other.frames)
    assert not torch.equal(one.frames, lessons()[6].frames)


def test_captions_of_lessons_belong_to_training():
    captions = set()
    for step in range(6):
        batch = lessons()[step]
        for tokens in batch.tokens:
            text = TOKENIZER.decode(tokens)
            captions |= {json.loads(f'"{part}"') for part in text.split('"')[1:2]}
    assert len(captions) > 20
    for caption in captions:
        spec = parse_caption(caption)
        assert split_of(compositions(spec), spec.modality) == "training"


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_those_of_the_backend(kind, tmp_path):
    torch.manual_seed(0)
    folder = save_judge(*build_judge(), tmp_path)
    rng = np.random.default_rng(0)
    group = draw_rendered(rng, draw_spec(rng, kind, "training"), splits=("training",))
    row = Writer(TOKENIZER).pair(group.caption, kind, group.views[:2], samples=(0, 1))
    samples = group.samples[:2] if kind == "video" else group.samples[:2, None]
    batch = Writer(TOKENIZER).batch([row], samples)
    inputs = Inputs(num_frames=NUM_FRAMES, format="png")
    pictures = tuple(each for sample in group.samples[:2] for each in encode_sample(sample, inputs))
    text = FLEX.template(kind).fill(group.caption, kind, (LENGTHS[kind],) * 2)
    backend = TransformersBackend(folder)
    shown = {picture.id: backend._preprocess(picture) for picture in pictures}
    asked = backend._prompt(ChatRequest(pictures, text), shown, Decoding(max_tokens=100))
    assert batch.tokens[0].tolist() == [*asked, *row.reply]
    seen = torch.cat([shown[picture.id][0] for picture in pictures])
    assert torch.allclose(seen, patches(batch.frames.flatten(0, 1)), atol=1e-6)
    backend.close()


@pytest.mark.parametrize("step", [0, 1])
def test_shared_samples_give_the_loss_of_the_plain_model(step):
    torch.manual_seed(0)
    model, tokenizer = build_judge(width=64, layers=1)
    batch = lessons()[step]
    tokens = batch.tokens
    labels = torch.full_like(tokens, -100)
    labels.view(-1)[batch.places + 1] = batch.targets
    images = batch.frames.flatten(0, 1)[batch.shown]
    with torch.no_grad():
        plain = model(
            input_ids=tokens,
            labels=labels,
            attention_mask=(tokens != tokenizer.pad_token_id).int(),
            mm_token_type_ids=(tokens == model.config.image_token_id).int(),
            pixel_values=patches(images),
            image_grid_thw=torch.tensor([[1, 8, 8]] * len(images)),
        ).loss
        assert float(loss_of_replies(model, batch)) == pytest.approx(float(plain), rel=1e-4)


def test_unreadable_samples_are_said_to_be():
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(150):
        group = draw_rendered(rng, draw_spec(rng, "image", "training"), splits=("training",))
        pictures, views = shown_worn(rng, group)
        assert all(each.shape == (1, 32, 32, 3) for each in pictures)
        assert views[0].spec == group.spec
        hidden = [one for one in views if not one.readable]
        if len(hidden) > 1:
            told += cannot_tell(parse_assessment(brief_assessment(*hidden[:2])))
    assert told > 2
    assert not unread(group.caption, group.samples[0]).readable
    assert view(group.caption, group.samples[0]).readable
