"""What every strategy returns, and the checks and orderings that they share.

Input is checked without waiting for the device. Shapes are known on the host and are checked at once. Whether a value
is NaN is known on the device only, and asking would stall its queue, so there each row's errors are noted in
`Selection.errors`, and `Selection.check` raises when the host reads the result back anyway. On a CPU nothing is
stalled by asking, so there every function raises by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.uploading import uploaded

# Bit i of `Selection.errors` is set where sentence i holds.
_CUES = ("saliency", "similarity")
_VALUES = (*_CUES, "visual", "relevance", "keys", "hidden", "presence", "question")
_ERRORS = (
    *(f"{name} is NaN or infinite" for name in _VALUES),
    *(f"{name} is negative" for name in _CUES),
    "keep is under 1",
    "keep is over the number of valid tokens",
)


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Kept tokens that others were merged into, C or fewer of a sample.

    Attributes:
        targets: int64 [B, C], which tokens; -1 where nothing was merged and a place is left over.
        hidden: float32 [B, C, D], what each of them is now, before the projector.
    """

    targets: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Selection:
    """The kept tokens of a batch.

    Attributes:
        mask: bool [B, N], True where a token is kept.
        by_text, by_saliency: bool [B, N], for which cue it is kept: for either, for both, or for neither where the
            rule asks for something else.
        errors: int64 [B], what is wrong with the row's input, as bits; 0 where it was good; see `check`.
        merged: what kept tokens became that others were merged into; None for strategies that merge nothing.
    """

    mask: Tensor
    by_text: Tensor
    by_saliency: Tensor
    errors: Tensor
    merged: Merged | None = None

    @property
    def from_text(self) -> Tensor:
        """int64 [B], how many tokens are kept for the text cue: i of AdaFV's mixture."""
        return self.by_text.sum(dim=1)

    @property
    def from_saliency(self) -> Tensor:
        """int64 [B], likewise for saliency: j. AdaFV's may overlap, so i + j can exceed K."""
        return self.by_saliency.sum(dim=1)

    def check(self) -> Selection:
        """Return self if the input was good. Waits for the device.

        Raises:
            ValueError: naming the first wrong row and what was wrong with it.
        """
        errors = self.errors.tolist()
        for row, bits in enumerate(errors):
            if bits:
                wrong = [sentence for bit, sentence in enumerate(_ERRORS) if bits >> bit & 1]
                raise ValueError(f"row {row}: {'; '.join(wrong)}")
        return self

    def checked_if_cheap(self) -> Selection:
        """`check` on a CPU; on an accelerator leave it to the caller, who reads the result back later."""
        return self.check() if self.mask.device.type == "cpu" else self


@dataclass(frozen=True, slots=True, eq=False)
class TokenBudget:
    """How many tokens each row keeps, and which of its tokens are real.

    Attributes:
        keep: int64 [B], K.
        bound: an upper bound of K that the host knows without asking the device.
        valid: bool [B, N].
    """

    keep: Tensor
    bound: int
    valid: Tensor

    @classmethod
    def of(cls, keep: int | Tensor, valid: Tensor | None, values: Tensor | None = None) -> TokenBudget:
        """Bring `keep`, an int or an int tensor [B] on any device, to the device of `valid`, bool [B, N], all True if
        left out; then there are `values` of the tokens, [B, N, ...].

        Raises:
            ValueError: `valid` isn't a bool matrix as large as the values, or `keep` isn't an int or an int tensor of
                shape [B].
        """
        if valid is None:
            assert values is not None
            valid = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        if valid.dim() != 2 or valid.dtype != torch.bool:
            raise ValueError(f"valid is {valid.dtype} {list(valid.shape)}; it must be bool [B, N]")
        if values is not None and valid.shape != values.shape[:2]:
            raise ValueError(f"valid is {list(valid.shape)}; it must be {list(values.shape[:2])}, one for each token")
        rows, tokens = valid.shape
        if isinstance(keep, Tensor):
            if keep.shape != (rows,) or keep.is_floating_point() or keep.dtype == torch.bool:
                raise ValueError(
                    f"keep is {keep.dtype} {list(keep.shape)}; it must be an int tensor [{rows}] or an int"
                )
            bound = int(keep.max()) if keep.device.type == "cpu" and rows else tokens
            moved = uploaded(keep, valid.device) if keep.device.type == "cpu" else keep.to(valid.device)
            return cls(moved.long(), min(max(bound, 0), tokens), valid)
        if isinstance(keep, bool) or not isinstance(keep, int):
            raise ValueError(f"keep is {keep!r}; it must be an int or an int tensor [{rows}]")
        full = torch.full((rows,), keep, dtype=torch.int64, device=valid.device)
        return cls(full, min(max(keep, 0), tokens), valid)

    def errors(self, **values: Tensor) -> Tensor:
        """int64 [B]: what is wrong with `keep`, and with valid tokens' values, [B, N] or [B, N, D], by their names.

        Raises:
            ValueError: another shape.
        """
        least, most = self.keep < 1, self.keep > self.valid.sum(dim=1)
        wrong = least.long() << _ERRORS.index("keep is under 1")
        wrong = wrong | most.long() << _ERRORS.index("keep is over the number of valid tokens")
        for name, each in values.items():
            wrong = wrong | value_errors(each, self.valid, name)
        return wrong


def value_errors(values: Tensor, valid: Tensor, name: str) -> Tensor:
    """int64 [B]: what is wrong with the values of that `name`, [B, N] or [B, N, D], where `valid`.

    Raises:
        ValueError: another shape.
    """
    if values.shape[:2] != valid.shape:
        raise ValueError(f"{name} is {list(values.shape)}; it must be {list(valid.shape)}, one for each token")
    summed = values.sum(dim=2, dtype=torch.float32) if values.dim() == 3 else values  # a fifth of isfinite's time
    unbounded = (summed.isfinite().logical_not() & valid).any(dim=1)
    wrong = unbounded.long() << _ERRORS.index(f"{name} is NaN or infinite")
    if name not in _CUES:
        return wrong
    return wrong | ((values < 0) & valid).any(dim=1).long() << _ERRORS.index(f"{name} is negative")


def filled(values: Tensor, valid: Tensor, fill: float) -> Tensor:
    """`values` with `fill` where `valid`, bool of a shape that broadcasts, is False: the same tensor where all are, on
    a CPU, where asking takes less time than a copy, and stalls nothing.
    """
    return values if valid.device.type == "cpu" and valid.all() else values.masked_fill(~valid, fill)


def without_cues(mask: Tensor, budget: TokenBudget, errors: Tensor) -> Selection:
    """The tokens of `mask`, bool [B, N], kept by a rule that doesn't say which cue a token is kept for."""
    nothing = torch.zeros_like(mask)
    return Selection(mask=mask & budget.valid, by_text=nothing, by_saliency=nothing, errors=errors).checked_if_cheap()


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Tokens in descending order of a cue, ties to the lower index, padding last.

    Attributes:
        tokens: int64 [B, N], the tokens in order.
        rank: int64 [B, N], each token's place in it, from 0.
        values: float32 [B, N], the cue in order, 0 where padded.
    """

    tokens: Tensor
    rank: Tensor
    values: Tensor

    @classmethod
    def of(cls, cue: Tensor, valid: Tensor) -> Order:
        """Order the tokens by `cue`, non-negative [B, N]."""
        # Cues are non-negative, so -1 puts padding behind every token. NaN is reported as an error, not ordered.
        values, tokens = torch.where(valid, cue.float(), -1.0).sort(dim=1, descending=True, stable=True)
        places = torch.arange(cue.shape[1], device=cue.device).expand_as(tokens)
        return cls(tokens, torch.empty_like(tokens).scatter_(1, tokens, places), values.clamp_min(0.0))

    def top(self, count: Tensor) -> Tensor:
        """bool [B, N]: the first `count` [B] tokens of each row."""
        return self.rank < count[:, None]


def prefix_sums(values: Tensor) -> Tensor:
    """float32 [B, N + 1]: the sum of the first i values, for i = 0 … N."""
    sums = torch.zeros(values.shape[0], values.shape[1] + 1, device=values.device)
    torch.cumsum(values, dim=1, dtype=torch.float32, out=sums[:, 1:])
    return sums
