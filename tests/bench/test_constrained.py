"""What a schema costs a decoding step: the ways are timed over the same number of steps."""

from __future__ import annotations

from adafv.bench import constrained
from adafv.bench.constrained import ConstrainedTerms


def test_the_same_steps_are_timed_with_and_without(monkeypatch):
    answered, step = [], constrained._step

    def watched(generator, group):
        class Listening:
            def __call__(self, *given):
                answers = generator(*given)
                answered.append({"ids": [answer.ids for answer in answers], "grammar": generator.grammar})
                return answers

        return step(Listening(), group)

    monkeypatch.setattr(constrained, "_step", watched)
    figures, table = constrained.run(ConstrainedTerms(vocabulary=400, batch_size=2, steps=5, rounds=1, device="cpu"))
    assert {len(ids) for each in answered for ids in each["ids"]} == {5} and len(answered) == 6
    assert [each["grammar"] is None for each in answered[:3]] == [True, False, False]
    text, fulfilled = answered[2]["grammar"].text(answered[2]["ids"][0])
    assert '{"caption": "'.startswith(text) and not fulfilled
    assert figures["overhead"].keys() == {"any text", "schema"} and "400 tokens, batches of 2" in table
