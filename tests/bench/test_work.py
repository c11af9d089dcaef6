"""Operations and bytes, against those that torch counts and the model's own weights."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from adafv import onednn
from adafv.bench import work
from adafv.counting import TokenCounts, Work
from adafv.pruning import STRATEGIES
from adafv.pruning.strategies import Cues
from tests.bench.tiny_shapes import NEXT, PLAIN, subject

FLOAT = 4  # bytes
STEPS = 3


def counts(*lengths: int) -> list[TokenCounts]:
    return [
        TokenCounts(positions=length, padded=length, outputs=1 + STEPS, visual=0, kept=0, words=0) for length in lengths
    ]


@pytest.fixture(params=[NEXT, PLAIN], ids=lambda shape: shape.family)
def model(request):
    """With eager attention, whose matrix products torch counts on a CPU; no layers behind the feature layer."""
    model = subject(request.param).fresh_model()
    model.set_attn_implementation("eager")
    tower = model.model.vision_tower
    tower.encoder.layers = tower.encoder.layers[:-1]
    return model


def operations(run) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_encoding(model):
    pixels = torch.randn(4, 3, 56, 56)

    def encode():
        model.model.multi_modal_projector(model.model.vision_tower(pixels).last_hidden_state[:, 1:])

    counted = work.count(model.config, FLOAT, "none", 4, counts(10))["encode"]
    assert counted.operations == pytest.approx(operations(encode), rel=0.01)
    assert work.count(model.config, FLOAT, "none", 0, counts(10))["encode"] == Work(), "not even the weights are read"


def test_prefill_and_decode(model):
    rows, length = 2, 11
    cache = DynamicCache()
    language, head = model.model.language_model, model.lm_head

    def prefill():
        embeds = torch.randn(rows, length, language.config.hidden_size)
        head(language(inputs_embeds=embeds, past_key_values=cache).last_hidden_state[:, -1:])

    def decode():
        for _ in range(STEPS):
            embeds = torch.randn(rows, 1, language.config.hidden_size)
            head(language(inputs_embeds=embeds, past_key_values=cache).last_hidden_state)

    counted = work.count(model.config, FLOAT, "none", 1, counts(*[length] * rows))
    later = length * (length - 1) // 2  # pairs of a position and one behind it, which eager attention computes as well
    wasted = 4 * rows * later * language.config.hidden_size * language.config.num_hidden_layers
    assert counted["prefill"].operations == pytest.approx(operations(prefill) - wasted, rel=0.01)
    assert counted["decode"].operations == pytest.approx(operations(decode), rel=0.01)


@pytest.mark.parametrize("strategy", ["text", "adafv", "divprune", "cdpruner"])
def test_selection(strategy, monkeypatch):
    monkeypatch.setattr(onednn, "is_packable", lambda matrix: False)  # the counter doesn't know oneDNN's products
    visual, text = torch.randn(1, 40, 16), torch.randn(1, 5, 16)
    valid = torch.ones(1, 40, dtype=torch.bool)
    saliency = torch.rand(1, 40)

    def select():
        similarity = None
        if "similarity" in STRATEGIES[strategy].needs:
            from adafv.pruning import text_similarity

            similarity = text_similarity(text, visual)
        cues = Cues(valid=valid, saliency=saliency, similarity=similarity, visual=visual, text=text)
        STRATEGIES[strategy].select(cues, 20)

    config = subject(NEXT).model.config
    config.text_config.hidden_size = 16
    sample = TokenCounts(positions=30, padded=30, outputs=1, visual=40, kept=20, words=5)
    counted = work.count(config, FLOAT, strategy, 1, [sample])["prune"]
    assert counted.operations == pytest.approx(operations(select), rel=0.05)


def test_coverage_compares_tokens_in_blocks_and_those_kept_with_all():
    config = subject(NEXT).model.config
    sample = TokenCounts(positions=30, padded=30, outputs=1, visual=40, kept=3, words=5)
    counted = work.count(config, FLOAT, "adafv-plus", 1, [sample])["prune"]
    alike, named, gains = 40 * (48 + 3) * 32, 5 * 40 * 32, 2 * (40 * 48)
    assert counted.operations == 2 * (alike + named + gains)
    assert counted.bytes == FLOAT * 40 * 32, "each visual token is read once"


def test_weights_are_read_once_for_the_batch(model):
    """Two alike take as many bytes as each by itself, less the weights that they share; in decoding, at each step."""
    alone, both = (work.count(model.config, FLOAT, "none", rows, counts(*[20] * rows)) for rows in (1, 2))
    saved = {stage: 2 * alone[stage].bytes - both[stage].bytes for stage in alone}
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    seen = [tower.encoder.layers, tower.embeddings.patch_embedding, projector]
    language = FLOAT * matrices(model.model.language_model.layers, model.lm_head)
    assert saved == {
        "encode": FLOAT * matrices(*seen),
        "prune": 0,
        "prefill": language,
        "decode": STEPS * language,
    }


def matrices(*modules: torch.nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters() if weight.dim() > 1)


def test_decoding_reads_the_keys_and_values_there_are(model):
    short, long = (work.count(model.config, FLOAT, "none", 1, counts(length))["decode"] for length in (20, 120))
    text = model.config.text_config
    column = 2 * text.num_key_value_heads * text.head_dim * text.num_hidden_layers
    assert long.bytes - short.bytes == FLOAT * STEPS * 100 * column


def test_a_sample_that_is_done_takes_no_more_steps(model):
    early = [TokenCounts(positions=20, padded=20, outputs=outputs, visual=0, kept=0, words=0) for outputs in (2, 4)]
    counted, alone = (work.count(model.config, FLOAT, "none", 1, each)["decode"] for each in (early, early[1:]))
    one_step = work.count(model.config, FLOAT, "none", 1, early[:1])["decode"]
    assert counted.operations == alone.operations + one_step.operations


def test_the_limit_is_the_longer_of_the_two_times():
    assert Work(operations=100, bytes=10).seconds(operations_per_s=10, bytes_per_s=10) == 10
    assert Work(operations=100, bytes=1000).seconds(operations_per_s=10, bytes_per_s=10) == 100
