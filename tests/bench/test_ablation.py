"""The variants of the rule: each differs from the corrected one in what its name says, and in nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adafv.bench.ablation import CORRECTED, LADDER, NEEDS, RULES, Rule, contenders, table
from adafv.bench.quality import Entry
from adafv.embedded import embedded_model
from adafv.engine import Engine, EngineOptions, Preparer, load_model
from adafv.pruning import STRATEGIES, Cues, mix, mix_paper, text_similarity
from tests.models.conftest import picture

CROPS, PATCHES = 3, 8
TOKENS = CROPS * PATCHES


def cues(seed: int = 0) -> Cues:
    """Two samples of three crops; the second has lost the last token, as an unpadded picture may."""
    random = torch.Generator().manual_seed(seed)
    crop, patch = np.divmod(np.arange(TOKENS), PATCHES)
    places = torch.from_numpy(np.stack([crop, patch], axis=-1)).expand(2, -1, -1).clone()
    valid = torch.ones(2, TOKENS, dtype=torch.bool)
    saliency = torch.rand(2, TOKENS, generator=random)
    visual, text = torch.randn(2, TOKENS, 16, generator=random), torch.randn(2, 4, 16, generator=random)
    valid[1, -1], places[1, -1], saliency[1, -1], visual[1, -1] = False, -1, 0.0, 0.0
    text_valid = torch.tensor([[True] * 4, [True] * 3 + [False]])
    similarity = text_similarity(text, visual, text_valid, valid)
    return Cues(valid=valid, saliency=saliency, similarity=similarity, visual=visual, text=text, text_valid=text_valid,
                places=places)  # fmt: skip


KEEP = torch.tensor([8, 7])


def test_as_it_stands_it_is_the_strategy():
    for name, rule in (("adafv", Rule()), ("adafv-paper", Rule(published=True))):
        assert torch.equal(rule(cues(), KEEP).mask, STRATEGIES[name].select(cues(), KEEP).mask)


def test_scale():
    given = cues()
    similarity = text_similarity(given.text, given.visual, given.text_valid, given.valid, 5.0)
    assert torch.equal(Rule(scale=5.0)(given, KEEP).mask, mix(given.saliency, similarity, KEEP, given.valid).mask)


def test_reserve():
    given = cues()
    expected = mix(given.saliency, given.similarity, KEEP, given.valid, 0.5)
    assert torch.equal(Rule(reserve=0.5)(given, KEEP).mask, expected.mask)


def test_per_crop():
    """Crops weigh the same: scaling the saliency of one changes nothing."""
    given = cues()
    brighter = given.saliency.clone()
    brighter[:, PATCHES : 2 * PATCHES] *= 50
    selected = [Rule(per_crop=True)(replace(given, saliency=each), KEEP).mask for each in (given.saliency, brighter)]
    assert torch.equal(*selected)
    assert not torch.equal(*(Rule()(replace(given, saliency=each), KEEP).mask for each in (given.saliency, brighter)))


def test_misplaced():
    """The saliency of patch p in crop n counts for token n + p; where several meet, the largest."""
    given, expected = cues(), torch.zeros(2, TOKENS)
    for row in range(2):
        for (crop, patch), value in zip(given.places[row].tolist(), given.saliency[row].tolist(), strict=True):
            if crop >= 0:
                expected[row, crop + patch] = max(expected[row, crop + patch], value)
    assert not expected[:, PATCHES + CROPS - 1 :].any(), "nearly all lie in the base crop"
    assert torch.equal(Rule(misplaced=True)(given, KEEP).mask, mix(expected, given.similarity, KEEP, given.valid).mask)


def test_floored():
    given = cues()
    assert Rule(floored=True)(given, KEEP).mask.sum(dim=1).tolist() == [6, 6]
    assert Rule(floored=True)(given, torch.tensor([2, 5])).mask.sum(dim=1).tolist() == [1, 3]


def test_unsorted():
    """The first r tokens of the sequence are kept whatever they hold, and the rest is divided as published."""
    given = cues()
    low = replace(given, saliency=given.saliency.clone(), similarity=given.similarity.clone())
    low.saliency[:, :2], low.similarity[:, :2] = 0.0, 0.0
    assert not Rule(published=True)(low, KEEP).mask[0, :2].any()
    kept = Rule(published=True, unsorted=True)(low, torch.tensor([8, 8]))
    assert kept.mask[:, :2].all()
    rest = mix_paper(low.saliency[:, 2:], low.similarity[:, 2:], 4, low.valid[:, 2:], reserve=0.0)
    assert torch.equal(kept.mask[:, 2:], rest.mask)


@pytest.fixture(scope="module")
def variants():
    return contenders(EngineOptions(strategy="adafv", keep=0.2, max_new_tokens=4, device="cpu"))


def test_the_ladder_ends_with_all_flaws(variants):
    assert variants[-1].options.text_scope == "prompt" and variants[-1].strategy.select == LADDER["+ misplaced crops"]
    errors = [
        sum(getattr(rule, name) for name in ("published", "floored", "unsorted", "misplaced"))
        for rule in LADDER.values()
    ]
    assert errors == [1, 2, 3, 4]


def test_each_variant_differs_in_one_thing(variants):
    corrected = next(one for one in variants if one.name == CORRECTED)
    for one in variants[1:]:
        if one.name in LADDER or one.name.startswith("+"):
            continue
        changed = [
            field
            for field in ("text_scope", "newlines")
            if getattr(one.options, field) != getattr(corrected.options, field)
        ]
        rule = one.strategy.select
        changed += [name for name in Rule.__dataclass_fields__ if getattr(rule, name) != getattr(Rule(), name)]
        assert len(changed) == (one.name != CORRECTED), one.name
    assert len({one.name for one in variants}) == len(variants) and set(RULES) | set(LADDER) < {
        one.name for one in variants
    }


def test_the_engine_gives_variants_what_they_need(variants):
    """Through the real model on a wide picture, whose crops lose patches to unpadding."""
    path = str(embedded_model("testbed"))
    adapter, processing = load_model(path, variants[0].options)
    sample = Preparer(processing, variants[0].options).prepare("0", picture((60, 90), 0), "what is the main object?")
    kept = {
        one.name: Engine(adapter, processing, one.options, strategy=one.strategy).label([sample])[0] for one in variants
    }
    options = variants[1].options
    assert (kept[CORRECTED].kept_indices == Engine(adapter, processing, options).label([sample])[0].kept_indices).all()
    (shown,) = sample.images
    geometry = processing.geometry(shown.size)
    crop, patch = geometry.places.T
    assert (crop * 36 + patch == geometry.source[geometry.is_token]).all() and crop.max() == len(shown.crops) - 1
    budget = options.kept_of(sample.visual_tokens)
    assert kept["floored budget"].kept_tokens == budget // len(shown.crops) * len(shown.crops)
    assert kept["newlines: rows"].prompt_tokens > kept[CORRECTED].prompt_tokens
    assert {"saliency", "similarity", "visual", "text", "places"} == NEEDS


def test_table():
    rows = [
        Entry(name, 0.1, type_, 40, 0.9, 0.8, 1.0, difference, -0.05, 0.01, 0.5, 1.0, 15.0)
        for name, difference in ((CORRECTED, 0.0), ("reserve 0", -0.02))
        for type_ in ("all", "digit", "caption")
    ]
    lines = table(rows).splitlines()
    assert "all questions (40), %" in lines[0] and "captions (40), %" in lines[0]
    assert lines[2].split() == ["reserve", "0"] + ["90.0", "-2.0", "[-5.0,", "+1.0]"] * 2 + ["15.0"]
