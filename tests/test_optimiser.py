"""That the one loop on a CPU is Adam."""

import pytest
import torch

from rareshot.optimiser import adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_torchs_adam_with_decoupled_decay(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    steps = (
        adam([ours], lr=0.01, weight_decay=weight_decay),
        torch.optim.AdamW([theirs], lr=0.01, weight_decay=weight_decay, foreach=False, fused=False),
    )
    for _ in range(20):
        gradient = torch.randn(50, generator=generator)
        for weight, step in zip((ours, theirs), steps, strict=True):
            weight.grad = gradient.clone()
            step.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert not torch.equal(ours, start)


def test_on_a_cpu_it_is_the_loop_with_exact_roots() -> None:
    assert adam([torch.zeros(1, requires_grad=True)], lr=1.0).param_groups[0]["fused"]
