"""How vLLM's sampler gets at `adafv.engine.controls`: a processor of vLLM's, which looks up each request's own.

Importing this needs vLLM. vLLM's engine runs in this process, so requests name what is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from adafv.engine.controls import Controls

REQUESTS: dict[int, RequestControls] = {}  # by the number in a request's extra arguments


class RequestControls:
    """The controls of one answer.

    Args:
        prompt_ids: the prompt's tokens, int [T]; none where they aren't known.
    """

    def __init__(self, controls: Controls, prompt_ids: Sequence[np.ndarray]) -> None:
        self._batch = controls.begin(1, prompt_ids)
        self._scores: Tensor | None = None
        self._taken = 0

    def __call__(self, output_ids: list[int], scores: Tensor) -> Tensor:
        """float32 [V]: what the next token is chosen by. `output_ids`: those before it."""
        if len(output_ids) > self._taken:
            self._batch.advance(torch.tensor(output_ids[-1:]))
            self._taken = len(output_ids)
        answer = torch.tensor([output_ids], dtype=torch.int64, device=scores.device)
        self._scores = self._batch.scores(answer, scores[None].clone())  # vLLM writes to its own
        return self._batch.masked(self._scores)[0]

    def logprob(self, token: int) -> float:
        """The log-probability of the token chosen by the newest scores, before the grammar."""
        assert self._scores is not None
        return float(self._scores[0, token] - self._scores[0].logsumexp(dim=0))


class Processor(AdapterLogitsProcessor):
    """Changes the scores of requests that name their controls."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Callable[[list[int], Tensor], Tensor] | None:
        controls = REQUESTS.get((params.extra_args or {}).get("adafv", -1))
        return None if controls is None else controls.__call__
