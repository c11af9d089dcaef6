"""What a model of any type must do, tried on a tiny one: each method of `Trial` is a column of the matrix."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoTokenizer

from adafv.engine import EngineOptions, Label
from adafv.engine.choices import choice_tokens
from adafv.models import load_adapter
from tests.models.checkpoint import Checkpoint
from tests.models.conformance.stock import for_pictures, generated
from tests.models.conftest import picture
from tests.models.general.kinds import KINDS, Kind
from tests.models.general.tiny import images_of, processor_class

NEEDS_TYPES = ("cosmos3_edge",)  # whose models want what their processors only give if asked
SIZES = [(64, 64), (33, 97), (97, 70), (150, 149)]
QUESTION = "w1 w17 what w29 w3"
ASKED = [([size], f"w{7 * i} w{i}" + " w2" * i) for i, size in enumerate(SIZES)]


class Trial(Checkpoint):
    """A checkpoint, ours and stock's."""

    def __init__(self, model_type: str, path: Path) -> None:
        super().__init__(path)
        self.model_type = model_type

    label = Checkpoint.converse

    @cached_property
    def stock(self) -> Any:
        config = AutoConfig.from_pretrained(self.path)
        return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].from_pretrained(self.path).eval()

    @cached_property
    def processor(self) -> Any:
        """The type's own processor, in which nothing but parts for videos and sounds is missing."""
        made, kind = processor_class(self.model_type), KINDS.get(self.model_type, Kind())
        tokenizer = AutoTokenizer.from_pretrained(self.path)
        parts = {"image_processor": images_of(self.model_type), "tokenizer": tokenizer, **kind.processor}
        return for_pictures(made, **parts)

    def stock_inputs(self, sizes: list[tuple[int, int]], question: str, answer: str = "") -> Any:
        """What stock's own processor makes of a prompt, and of what is answered."""
        content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": question}]
        text = self.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        given = {"images": [[*map(picture, sizes)]]} if sizes else {}
        if KINDS.get(self.model_type, Kind()).flat and sizes:
            given = {"images": [*map(picture, sizes)]}
        asked = {"return_mm_token_type_ids": True} if self.model_type in NEEDS_TYPES else {}
        return self.processor(**given, **asked, text=[text + answer], return_tensors="pt")

    def check(self, label: Label, sizes: list[tuple[int, int]], question: str) -> None:
        stock = generated(self.stock, self.stock_inputs(sizes, question), label.output_tokens)
        answer, logprob = self.processing.decode(stock.ids), stock.mean_logprob
        assert label.answer == answer, (sizes, label.answer, answer)
        assert abs(label.mean_logprob - logprob) < 1e-3, (sizes, label.mean_logprob, logprob)

    def none_is_stock(self) -> None:
        for (sizes, question), label in zip(ASKED, self.label(ASKED, strategy="none"), strict=True):
            self.check(label, sizes, question)

    def all_kept_is_none(self) -> None:
        whole = self.label(ASKED, strategy="none")
        for strategy in ("adafv-plus", "visionzip"):
            for label, other in zip(self.label(ASKED, strategy=strategy, keep=1.0), whole, strict=True):
                assert (label.answer, label.prompt_tokens) == (other.answer, other.prompt_tokens)
                assert abs(label.mean_logprob - other.mean_logprob) < 1e-4

    def batches(self) -> None:
        together = self.label(ASKED, keep=0.25)
        for asked, label in zip(ASKED, together, strict=True):
            (alone,) = self.label([asked], keep=0.25)
            assert alone.kept_indices.tolist() == label.kept_indices.tolist()
            assert alone.answer == label.answer and abs(alone.mean_logprob - label.mean_logprob) < 1e-4
            assert label.kept_tokens == EngineOptions(keep=0.25).kept_of(label.visual_tokens)

    def several_images(self) -> None:
        for strategy in ("none", "adafv-plus"):
            (label,) = self.label([(SIZES[:3], QUESTION)], strategy=strategy, keep=1.0)
            self.check(label, SIZES[:3], QUESTION)
        pruned, alone = self.label([(SIZES[:3], QUESTION), (SIZES[:1], QUESTION)], keep=0.3)
        assert [part.visual_tokens for part in pruned.parts] == [part.visual_tokens for part in label.parts]
        assert len(alone.parts) == 1

    def no_image(self) -> None:
        label, _ = self.label([([], QUESTION), ([(64, 64)], QUESTION)], keep=0.3)
        self.check(label, [], QUESTION)

    def second_looks(self) -> None:
        pruned, whole = (self.label(ASKED, strategy=name, keep=0.25) for name in ("adafv-plus", "none"))
        again = self.label(ASKED, keep=0.25, escalate=1.0, escalate_below=1.0)
        for label, first, unpruned in zip(again, pruned, whole, strict=True):
            more = first.kept_tokens < first.visual_tokens
            assert label.looks == 1 + more and label.answer == unpruned.answer

    def choices(self) -> None:
        choices = ("w3", "w4 w5", "w4 w6 w7")
        together = self.label(ASKED[:3], choices=choices, keep=0.5)
        for asked, label in zip(ASKED, together, strict=False):
            (alone,) = self.label([asked], choices=choices, keep=0.5)
            assert alone.choice_probabilities == label.choice_probabilities
        for (sizes, question), label in zip(
            ASKED[:3], self.label(ASKED[:3], choices=choices, strategy="none"), strict=True
        ):
            expected = torch.stack([self.stock_choice(sizes, question, choice) for choice in choices]).softmax(0)
            np.testing.assert_allclose([*label.choice_probabilities.values()], expected, atol=1e-4)

    def stock_choice(self, sizes: list[tuple[int, int]], question: str, choice: str) -> Tensor:
        """How probable stock finds an answer, by its scores behind the prompt and the whole of it."""
        [ids] = choice_tokens(self.processing, (choice,))
        inputs = self.stock_inputs(sizes, question, f" {choice}")
        assert inputs["input_ids"][0, -len(ids) :].tolist() == [*ids]
        with torch.inference_mode():
            scores = self.stock(**inputs).logits[0, -len(ids) - 1 : -1].double().log_softmax(dim=-1)
        return scores.gather(1, torch.tensor(ids)[:, None]).sum()

    def bfloat16(self) -> None:
        adapter = load_adapter(str(self.path), self.processing, torch.device("cpu"), torch.bfloat16)
        for strategy in ("none", "adafv-plus"):
            (label,) = self.label(ASKED[:1], adapter=adapter, strategy=strategy, keep=0.3, max_new_tokens=3)
            assert label.output_tokens and np.isfinite(label.mean_logprob)

    def cues(self) -> None:
        for size in SIZES:
            encoded = self.adapter.encode(torch.from_numpy(self.processing.crops(picture(size)).copy()))
            saliency = encoded.saliency[0]
            assert saliency.shape == encoded.tokens.shape[1:2] and bool((saliency >= 0).all())
            assert bool(saliency.isfinite().all()) and float(saliency.sum()) > 0
            assert encoded.tokens.isfinite().all()


COLUMNS = {
    "`none` is stock": Trial.none_is_stock,
    "all kept is `none`": Trial.all_kept_is_none,
    "batches": Trial.batches,
    "several images": Trial.several_images,
    "no image": Trial.no_image,
    "second looks": Trial.second_looks,
    "choices": Trial.choices,
    "bf16": Trial.bfloat16,
    "cues": Trial.cues,
}
