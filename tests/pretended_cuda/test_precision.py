"""On a pretended GPU: half precision keeps what float32 keeps."""

from __future__ import annotations

import pytest
import torch

from adafv.pruning.adafv_plus import coverage
from tests.pretended_cuda.device import pretended_cuda


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coverage_in_half_precision_keeps_what_float32_keeps(dtype):
    """Tokens that are much alike, as a tower's are: rounded to three digits their likenesses would tie."""
    random = torch.Generator().manual_seed(0)
    visual = (3 + torch.randn(3, 200, 32, generator=random)).to(dtype)
    presence, question = torch.rand(2, 3, 200, generator=random)
    keep = torch.tensor([20, 60, 1])
    wanted = coverage(visual.float(), presence, question, keep).mask
    with pretended_cuda():
        given = [each.to("cuda") for each in (visual, presence, question)]
        mask = coverage(*given, keep).mask.cpu()
    assert torch.equal(mask, wanted)
