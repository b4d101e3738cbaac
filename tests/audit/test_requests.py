import itertools

import numpy as np
import pytest

from flexgym.audit.requests import Item, Request, read_request
from flexgym.shapes.captions import image_specs, phrasings, video_specs

RED, BLUE = Item("circle", "red"), Item("square", "blue")


def facts(item):
    return item and (item.shape, item.color, item.size, item.count)


def same(request, spec):
    absent = spec.absent and (spec.absent.shape, spec.absent.color, None, 1)
    return (
        [*map(facts, request.items)] == [*map(facts, spec.nouns)]
        and facts(request.absent) == absent
        and (request.relation, request.event, request.speed) == (spec.relation, spec.motion, spec.speed)
        and request.waits == (spec.category == "standing")
    )


def misread(every):
    found = []
    for spec in itertools.chain(image_specs(), video_specs()):
        if len(spec.nouns) == 3 and next(every):
            continue
        found += [caption for caption in phrasings(spec) if not same(read_request(caption), spec)]
    return found


@pytest.mark.slow
def test_every_caption_has_the_meaning_that_the_world_gives_it():
    rng = np.random.default_rng(0)
    assert misread(iter(lambda: rng.random() > 0.02, None)) == []


def test_captions_of_every_form_have_the_meaning_that_the_world_gives_them():
    rng = np.random.default_rng(0)
    some = ("circle", "cross", "square"), ("red", "black")
    specs = [*image_specs(*some), *video_specs(*some)]
    for index in rng.permutation(len(specs))[:600]:
        for caption in phrasings(specs[index]):
            assert same(read_request(caption), specs[index]), caption


def test_case_spaces_and_the_final_period_do_not_matter():
    assert read_request(" A RED circle  and a blue square. ") == Request((RED, BLUE))


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a red dragon", "expected 'circle' or .* after 'a red'"),
        ("a red circle and a blue square dancing", "expected nothing more after 'a red circle and a blue square'"),
        ("a red circle moving sideways", "expected 'left' or 'right' or 'up' or 'down' after 'a red circle moving'"),
        ("", "expected 'circle'"),
        ("a red circle between a blue square", "expected 'and'"),
        ("two red circles, three of those", "expected 'circle'"),
    ],
)
def test_other_captions_are_rejected_with_the_words_that_were_expected(caption, message):
    with pytest.raises(ValueError, match=message):
        read_request(caption)
