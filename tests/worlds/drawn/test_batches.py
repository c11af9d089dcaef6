"""Training batches: crops, geometry and packing, each held against the processor and the stock model."""

import functools

import numpy as np
import pytest
import torch

from adafv.worlds.drawn.batches import (
    ABSENT,
    ALIGNED_WORDS,
    IGNORE,
    make_batch,
    random_keep,
)
from adafv.worlds.drawn.family import NEWLINE
from adafv.worlds.drawn.llava import LlavaNext, layout, normalise
from adafv.worlds.drawn.losses import pack, read
from adafv.worlds.drawn.model import CROP, PATCH, build_model, build_processor
from adafv.worlds.drawn.questions import CONTENT_WORDS, questions
from adafv.worlds.drawn.scenes import GRIDS, make_scene, render
from tests.worlds.drawn.conftest import conversation

SCENES = [make_scene(70 + i, grid) for i, grid in enumerate(GRIDS)]
family = LlavaNext()
processor = build_processor()
encode = functools.cache(lambda text: processor.tokenizer(text)["input_ids"])


@pytest.fixture(scope="module")
def model():
    return build_model(seed=1).eval()


@pytest.fixture(scope="module")
def batch():
    return make_batch(SCENES, processor, encode)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.grid))
def test_crops_normalised_are_the_processors_pixels(scene):
    pixels = processor.image_processor(render(scene), return_tensors="pt")["pixel_values"][0]
    mine = normalise(torch.from_numpy(family.pixels(render(scene), processor)), processor)
    torch.testing.assert_close(mine, pixels, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.grid))
def test_patches_lie_where_the_layout_says(scene):
    """Every patch of the crops is found again in the picture, at its box."""
    place = layout(scene.width, scene.height)
    crops, picture = family.pixels(render(scene), processor), np.asarray(render(scene)).transpose(2, 0, 1)
    per_crop = (CROP // PATCH) ** 2
    for number in {n for n in place.order.tolist() if n >= per_crop}:  # the base crop is resized, so not it
        crop, patch = divmod(number, per_crop)
        y, x = divmod(patch, CROP // PATCH)
        found = crops[crop][:, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
        left, top, right, bottom = place.boxes[number].astype(int)
        assert (found == picture[:, top:bottom, left:right]).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_packed_rows_read_like_the_picture(grid):
    place = layout(grid[0] * 16, grid[1] * 16)
    tokens = place.order[36:]
    assert sorted(place.order[:36]) == list(range(36))
    rows = np.split(tokens, np.flatnonzero(tokens == NEWLINE) + 1)[:-1]
    assert len(rows) == grid[1] * 2
    for number, row in enumerate(rows):
        assert (place.row[36:][sum(map(len, rows[:number])) :][: len(row)] == number).all()
        boxes = place.boxes[row[:-1]]
        assert boxes[:, 0].tolist() == [PATCH * i for i in range(grid[0] * 2)]
        assert (boxes[:, 1] == PATCH * number).all()


def test_questions_packed_together_read_as_if_each_stood_alone(model, batch):
    """The heart of the training's economy: the logits of a single-turn prompt and the stock model."""
    with torch.no_grad():
        seen = family.look(model, batch.pixels, batch.sizes, processor)
        visual = pack(seen.tokens, family.newline(model), batch.order)
        logits = model.lm_head(read(model, visual, batch.order != ABSENT, batch))
        for b, scene in enumerate(SCENES):
            for number in (0, len(batch.asked[b]) - 1):
                question = batch.asked[b][number]
                prompt = processor.apply_chat_template(conversation(question.text), add_generation_prompt=True)
                inputs = processor(images=render(scene), text=f"{prompt} {question.answer} </s>", return_tensors="pt")
                mine = batch.segment[b] == number
                assert inputs["input_ids"][0, -int(mine.sum()) :].tolist() == batch.text[b][mine].tolist()
                stock = model(**inputs).logits[0, -int(mine.sum()) :]
                torch.testing.assert_close(logits[b][mine], stock, atol=1e-4, rtol=1e-4)


def test_dropped_tokens_are_as_if_they_had_never_been(model, batch):
    """Compacted positions: dropping all but some tokens equals a shorter prompt of those tokens alone."""
    rng = np.random.default_rng(0)
    keep = random_keep(batch, rng, 0.05)
    with torch.no_grad():
        seen = family.look(model, batch.pixels, batch.sizes, processor)
        visual = pack(seen.tokens, family.newline(model), batch.order)
        hidden = read(model, visual, keep, batch)
        embed = model.get_input_embeddings()
        for b in range(len(SCENES)):
            mine = batch.segment[b] == 2
            embeds = torch.cat([embed(torch.tensor([1])), visual[b][keep[b]], embed(batch.text[b][mine])])
            alone = model.model.language_model(
                inputs_embeds=embeds[None], attention_mask=torch.ones(1, len(embeds), dtype=torch.long)
            ).last_hidden_state[0, -int(mine.sum()) :]
            torch.testing.assert_close(hidden[b][mine], alone, atol=1e-4, rtol=1e-4)


def test_targets_are_the_answers_and_their_end(batch):
    for b, scene in enumerate(SCENES):
        for number, question in enumerate(questions(scene)):
            targets = batch.target[b][(batch.segment[b] == number) & (batch.target[b] != IGNORE)]
            assert targets.tolist() == [*encode(question.answer), processor.tokenizer.eos_token_id]
            caption = batch.in_caption[b][batch.segment[b] == number]
            assert caption.all() if question.type == "caption" else not caption.any()


def touches(patches: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """bool [n]: patches [n, 4] that have a pixel in common with the box."""
    left, top, right, bottom = box
    return ((patches[:, :2] < (right, bottom)) & (patches[:, 2:] > (left, top))).all(1)


def test_words_are_shown_where_their_things_are(batch):
    for b, scene in enumerate(SCENES):
        place = layout(scene.width, scene.height)
        for word in {thing.kind for thing in scene.objects} | {thing.colour for thing in scene.objects}:
            shown = np.flatnonzero(batch.shows[b, :, ALIGNED_WORDS.index(word)].numpy())
            patches = place.boxes[place.order[shown]]
            named = [thing for thing in scene.objects if word in (thing.kind, thing.colour)]
            written = [box for digit, box in scene.sign.digits() if digit == word] if scene.sign else []
            on = np.stack([touches(patches, box) for box in (*(thing.box for thing in named), *written)])
            assert on.any(0).all()  # [things, patches]
            for thing, mine in zip(named, on, strict=False):
                assert mine.sum() >= (4 if thing.size == "small" else 12)
        there = str(scene.objects) + (scene.sign.text if scene.sign else "")
        absent = [i for i, word in enumerate(CONTENT_WORDS) if word not in there]
        assert not batch.shows[b][:, absent].any()


def test_sign_and_background_are_shown_where_they_are(batch):
    assert {scene.sign is None for scene in SCENES} == {True, False}
    for b, scene in enumerate(SCENES):
        place = layout(scene.width, scene.height)
        sign, background = (
            np.flatnonzero(batch.shows[b, :, ALIGNED_WORDS.index(word)].numpy()) for word in ("sign", "background")
        )
        if scene.sign is None:
            assert not len(sign)
        else:
            assert len(sign) >= 8 and touches(place.boxes[place.order[sign]], scene.sign.box).all()
        boxes = [thing.box for thing in scene.objects] + ([scene.sign.box] if scene.sign else [])
        assert len(background) > 10 and (place.order[background] >= 0).all()
        assert not any(touches(place.boxes[place.order[background]], box).any() for box in boxes)


def test_types_of_questions_can_be_chosen():
    asked = make_batch(SCENES, processor, encode, ("main", "background")).asked
    assert [[question.type for question in each] for each in asked] == [["main", "background"]] * len(SCENES)


def test_cls_labels_name_the_large_object_in_the_whole_picture(batch):
    first = 0
    for scene in SCENES:
        assert CONTENT_WORDS[batch.crop_kind[first]] == scene.main.kind
        first += len(family.pixels(render(scene), processor))
    assert first == len(batch.pixels)


def test_random_keep_drops_patches_and_either_all_newlines_or_those_of_empty_rows():
    batch = make_batch([make_scene(i) for i in range(40)], processor, encode)
    keep = random_keep(batch, np.random.default_rng(1), 0.03)
    patches, newlines = batch.order >= 0, batch.order == NEWLINE
    share = ((keep & patches).sum(1) / patches.sum(1)).numpy()
    assert not (keep & (batch.order == ABSENT)).any()
    assert share.min() < 0.08 and share.max() > 0.7 and 0.1 < np.median(share) < 0.3
    with_newlines = 0
    for b in range(len(keep)):
        kept_rows = set(batch.row[b][keep[b] & patches[b]].tolist()) - {-1}
        newline_rows = set(batch.row[b][keep[b] & newlines[b]].tolist())
        assert newline_rows in (kept_rows, set())
        with_newlines += bool(newline_rows)
    assert 10 < with_newlines < 30
