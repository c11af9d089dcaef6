"""Ask a model about scenes through the processor and the stock `generate`, nothing pruned, and score it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from adafv.worlds.drawn.questions import questions
from adafv.worlds.drawn.scenes import Scene, render
from adafv.worlds.drawn.score import Score, Truth, score

LONGEST_ANSWER = 32  # words: a caption has at most 26


def evaluate(model: LlavaNextForConditionalGeneration, processor: LlavaNextProcessor, scenes: Sequence[Scene]) -> Score:
    truth: dict[str, Truth] = {}
    labels: dict[str, str] = {}
    for scene in scenes:
        asked = questions(scene)
        answers = answer(model, processor, scene, [question.text for question in asked])
        for number, (question, text) in enumerate(zip(asked, answers, strict=True)):
            id_ = f"{scene.seed}-{number}"
            truth[id_] = Truth(question.answer, question.type, question.size)
            labels[id_] = text
    return score(labels, truth)


@torch.inference_mode()
def answer(
    model: LlavaNextForConditionalGeneration,
    processor: LlavaNextProcessor,
    scene: Scene,
    asked: Sequence[str],
) -> list[str]:
    """The model's greedy answers to questions on one scene."""
    prompts = [
        processor.apply_chat_template(conversation(text), add_generation_prompt=True)  # type: ignore[arg-type]
        for text in asked
    ]
    picture = render(scene)
    inputs = processor(images=[picture] * len(prompts), text=prompts, padding=True, return_tensors="pt")
    replies = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)  # type: ignore[misc]
    return processor.batch_decode(replies[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def conversation(text: str) -> list[dict[str, object]]:
    """One picture and one question, as chat templates take them."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
