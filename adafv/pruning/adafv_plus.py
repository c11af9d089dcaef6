"""Proportional coverage, `adafv-plus`: spend the budget where the demand is, in proportion. A rule of ours.

Every token j has two demands. P_j is for being there, and more for being salient. Q_j is for what the question asks
about: as much as some word singles the token out, shared with the tokens around it on the image. A kept token covers
those that are like it, and what is covered already counts for less. So with S kept, token i covers

    u_i = Σ_j k_ij · P_j / (1 + Σ_{s in S} k_sj)^γ + Σ_j k_ij² · Q_j / (1 + Σ_{s in S} k_sj²)^γ_Q
    P_j = 1/N + b · a_j / Σ a
    Q_j = q · blur of (max over m of g_m · softmax over j of (τ · cos(t_m, v_j)))
    with γ = c · (N / K)^e, k_ij = max(0, cos(v_i, v_j))^6, and the sum over the j of i's block: 48 tokens that follow
    each other

The K tokens are kept in R = max(6, ⌈K/24⌉) rounds, as evenly as can be. A round looks at the 48 tokens that cover
most, and keeps those with the largest

    u_i · (1 - max of k_ij over the looked-at j that cover more)

since what another token of the round covers as well is not covered twice.

Things of D tokens get tokens in proportion to about D^(1/γ). A small budget is spent on breadth (γ is large: each thing
gets one, however small it is). A larger one goes into depth: with a large γ it would go to oddities, since everything
else is covered once.

Three things set it apart from AdaFV. Cues are not given shares of the budget: demands add up, and a token that covers
several of them is worth more. What is asked about is worth more tokens: Q adds to P, and is covered by what is more
alike (k²). And a word has its say only so far as it names something in this image. Its gate, from its cosines with all
tokens,

    g_m = max(0, (max + min - 2 · median) / (max - min))          the median of an even number is the lower one

is near 1 where a few tokens stand out from all others, and 0 where the middle lies halfway: so it is for words that
name nothing, and "describe the image" leaves P.

A kept token is said to be kept for the text where it covers what is asked for more than what is there,
Σ_j k_ij² · Q_j > Σ_j k_ij · P_j over its block; else for its saliency.

Blocks and rounds are there for speed. What a kept token covers is worked out over all tokens, so nothing is bought
twice however the image is cut; but what another would cover needs only be compared among neighbours to rank it. And
tokens that are kept together needn't wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.pruning.directions import Directions
from adafv.pruning.greedy import token_budget
from adafv.pruning.relevance import blur
from adafv.pruning.selection import Selection, TokenBudget, filled, without_cues


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What the rule weighs by. The defaults are those of the strategy `adafv-plus` (docs/measurements/constants.md).

    Attributes:
        saliency: b.
        question: q.
        scale: τ.
        discount, exponent: c and e, of γ = c · (N / K)^e.
        question_discount: γ_Q.
    """

    saliency: float = 4.0
    question: float = 5.0
    scale: float = 16.0
    discount: float = 1.6
    exponent: float = 0.5
    question_discount: float = 4.0


BLOCK = 48  # tokens
_ROUNDS, _AT_ONCE = 6, 24  # the fewest rounds, and the most tokens that one keeps
_LOOKED_AT = 48  # tokens in a round
_TIE = 1e-9  # by how much a token falls behind its equal for each place that it stands behind it


DEFAULT = Constants()


def coverage(
    visual: Tensor | Directions,
    presence: Tensor,
    question: Tensor,
    keep: int | Tensor,
    valid: Tensor | None = None,
    constants: Constants = DEFAULT,
) -> Selection:
    """Keep the K tokens of each sample that cover the demands, all of its crops together.

    Args:
        visual: [B, N, D], projected visual tokens, in the order in which the language model sees them; or the
            directions of these, where they are known.
        presence, question: float [B, N], P and Q, see the functions of these names.
        keep, valid: as for `mix`, and so are the errors.
        constants: of which the discounts matter here.
    """
    visual = Directions.of(visual)
    budget, errors = token_budget(visual, keep, valid, presence=presence, question=question)
    presence, question = (filled(each.float(), budget.valid, 0.0) for each in (presence, question))
    if presence.device.type != "cpu":
        mask, asked = _in_rounds(visual, presence, question, budget, constants)
    else:
        without_cues(budget.valid, budget, errors)  # raises where there are errors
        mask, asked = torch.zeros_like(budget.valid), torch.zeros_like(budget.valid)
        for one in (slice(row, row + 1) for row in range(len(mask))):  # so that no matrix product spans two samples
            single = TokenBudget.of(budget.keep[one], budget.valid[one])
            mask[one], asked[one] = _in_rounds(visual.rows(one), presence[one], question[one], single, constants)
    return Selection(mask=mask, by_text=mask & asked, by_saliency=mask & ~asked, errors=errors)


def _in_rounds(
    visual: Directions, presence: Tensor, question: Tensor, budget: TokenBudget, constants: Constants
) -> tuple[Tensor, Tensor]:
    """bool [B, N] each: the kept tokens, and those that cover the question most. No value is asked for on the host."""
    free = budget.valid
    likeness = _Likeness(visual, free)
    share = (budget.keep / free.sum(dim=1).clamp_min(1)).float()[:, None]  # K/N
    there = _Demand(presence, constants.discount * share.pow(-constants.exponent))
    asked = _Demand(question, constants.question_discount)
    for_text = likeness.covered(-there.left, asked.left) > 0
    behind = 1 - _TIE * torch.arange(free.shape[1], dtype=torch.float64, device=free.device)
    for due in _schedule(budget):
        covers = likeness.covered(there.left, asked.left).where(free, -torch.inf) * behind
        tokens, alike = likeness.best_apart(covers, due.shape[1])
        free = free.scatter(1, tokens, ~due & free.gather(1, tokens))
        kept = due[:, None].float()  # [B, 1, T]
        there.cover((kept @ alike).squeeze(1))
        asked.cover((kept @ alike.square_()).squeeze(1))
    return budget.valid & ~free, for_text


def _schedule(budget: TokenBudget) -> Tensor:
    """bool [R, B, T]: in each of at most R rounds, whether a row still keeps a first, a second, ... of T tokens."""
    most = max(-(-budget.bound // _AT_ONCE), _ROUNDS)
    keep = budget.keep[:, None]
    rounds = keep.add(_AT_ONCE - 1).div(_AT_ONCE, rounding_mode="floor").clamp_min(_ROUNDS)
    done = torch.arange(most + 1, device=keep.device).minimum(rounds) * keep // rounds  # [B, R + 1]
    # The row with the most rounds need not be the one that keeps the most in a round.
    places = torch.arange(min(-(-budget.bound // _ROUNDS), _AT_ONCE), device=keep.device)
    return (places < done.diff(dim=1)[:, :, None]).transpose(0, 1)


class _Likeness:
    """k of visual tokens [B, N, D] with each other, 0 where either isn't `valid` [B, N].

    They are compared in float32; on a GPU half precision stays what it is, and is summed in float32.
    """

    def __init__(self, visual: Directions, valid: Tensor) -> None:
        self._visual = visual.where(valid)
        blocks = self._visual.in_blocks(BLOCK)
        self._in_blocks = _sharpened(blocks.cosines(blocks))  # [B, N / 48, 48, 48]

    def covered(self, there: Tensor, asked: Tensor) -> Tensor:
        """float32 [B, N]: of what is left of P and Q [B, N], how much each token would cover in its block."""
        tokens, blocks = there.shape[1], self._in_blocks.shape[1]
        missing = blocks * BLOCK - tokens
        there, asked = (F.pad(each, (0, missing)).view(-1, blocks, 1, BLOCK) for each in (there, asked))
        covered = torch.addcmul(there, self._in_blocks, asked).mul_(self._in_blocks).sum(dim=3)
        return covered.flatten(1)[:, :tokens]

    def best_apart(self, covers: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The tokens that cover most [B, N], without those that a better one is like, the best first.

        Returns:
            (int64 [B, count] the tokens, float32 [B, count, N] their k with all tokens).
        """
        most, tokens = covers.topk(min(_LOOKED_AT, covers.shape[1]))
        looked_at = self._visual.at(tokens)
        apart = 1 - _sharpened(looked_at.cosines(looked_at).tril_(-1).amax(dim=2))
        worth = (most * apart).where(most > -torch.inf, -torch.inf)  # 0 times -inf would be NaN
        best = worth.sort(dim=1, descending=True, stable=True).indices[:, :count]
        return tokens.gather(1, best), _sharpened(looked_at.at(best).cosines(self._visual))


class _Demand:
    """A demand [B, N], and how far it is covered.

    Attributes:
        left: [B, N], what is still worth serving.
    """

    def __init__(self, wanted: Tensor, discount: Tensor | float) -> None:
        self._wanted, self._discount = wanted, discount
        self._divisor = torch.ones_like(wanted)  # 1 and how far it is covered
        self.left = wanted

    def cover(self, alike: Tensor) -> None:
        """From now on it is covered by `alike` [B, N] more."""
        self._divisor += alike
        self.left = self._wanted / self._divisor.pow(self._discount)


def _sharpened(cosine: Tensor) -> Tensor:
    """max(0, cosine)^6, in its place."""
    return cosine.relu_().square_().pow_(3)


def presence(saliency: Tensor, valid: Tensor, constants: Constants = DEFAULT) -> Tensor:
    """float32 [B, N]: P, 0 where padded.

    Args:
        saliency: float [B, N], see `cues.cls_saliency`.
        valid: bool [B, N], False where padded.
    """
    seen = filled(saliency.float(), valid, 0.0)
    total = seen.sum(dim=1, keepdim=True)
    salient = torch.where(total > 0, seen / total, 0.0)
    plain = 1 / valid.sum(dim=1, keepdim=True).clamp_min(1)
    return filled(plain + constants.saliency * salient, valid, 0.0)


def question(
    cosine: Tensor,
    neighbours: Tensor,
    valid: Tensor,
    text_valid: Tensor | None = None,
    constants: Constants = DEFAULT,
) -> Tensor:
    """float32 [B, N]: Q, 0 where padded.

    Args:
        cosine: [B, T, N], see `cues.text_cosines`.
        neighbours: int64 [B, N, 9], see `relevance.blur`.
        valid, text_valid: bool [B, N] and [B, T], False where padded.
    """
    here = valid[:, None, :]
    focus = filled(cosine * constants.scale, here, -torch.inf).softmax(dim=2) * _gate(cosine, here)[:, :, None]
    if text_valid is not None:
        focus = filled(focus, text_valid[:, :, None], 0.0)
    return filled(constants.question * blur(focus.amax(dim=1), neighbours), valid, 0.0)


def _gate(cosine: Tensor, here: Tensor) -> Tensor:
    """float32 [B, T]: g, by how much a word's cosines with few tokens stand out; 0 where all are equal."""
    least, most = filled(cosine, here, torch.inf).amin(dim=2), filled(cosine, here, -torch.inf).amax(dim=2)
    return torch.where(most > least, (most + least - 2 * _median(cosine, here)) / (most - least), 0.0).relu()


def _median(values: Tensor, here: Tensor) -> Tensor:
    """float32 [B, T]: the lower median of `values` [B, T, N] where `here`, bool [B, 1, N]."""
    if values.device.type != "cpu":
        return values.masked_fill(~here, torch.nan).nanmedian(dim=2).values  # far faster than sorting
    middle = ((here.sum(dim=2) - 1) // 2).flatten().tolist()
    last = filled(values, here, torch.inf).numpy()
    rows = [np.partition(row, at, axis=1)[:, at] for row, at in zip(last, middle, strict=True)]
    return torch.from_numpy(np.stack(rows))  # in a fifth of the time that torch takes
