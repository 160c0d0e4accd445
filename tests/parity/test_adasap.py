"""AdaSAP beside a transcription of its algorithm, and without channels."""

from __future__ import annotations

import math

import torch
from torch import nn

import steppe


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(32, 6), torch.randint(3, (32,))


def test_three_phases_step_by_step() -> None:
    """Unstructured, eta 0.01: adaptive radii, exponential cuts, then ASAM; by plain tensors."""
    x, y = data()
    steps, rho_min, rho_max, rho, eta, lr, momentum = 10, 0.01, 0.5, 0.3, 0.01, 0.1, 0.9
    method = steppe.methods.adasap(
        sparsity=0.5,
        rho_min=rho_min,
        rho_max=rho_max,
        rho=rho,
        warmup=0.2,
        pruned=0.6,
        every=2,
        score="magnitude",
        structure="unstructured",
    )
    ours = net()
    optimizer = torch.optim.SGD(ours.parameters(), lr=lr, momentum=momentum)
    sparsifier = steppe.sparsify(ours, optimizer, method, total_steps=steps)
    for _ in range(steps):
        sparsifier.step(lambda: nn.functional.cross_entropy(ours(x), y))
    sparsifier.finish()

    theirs = [p.detach().clone() for p in net().parameters()]
    buffers = [torch.zeros_like(w) for w in theirs]
    masks = [torch.ones_like(w) for w in theirs]
    total = sum(w.numel() for w in theirs)

    def gradient(weights: list[torch.Tensor]) -> list[torch.Tensor]:
        held = [w.clone().requires_grad_() for w in weights]
        out = torch.relu(x @ held[0].T) @ held[1].T
        return list(torch.autograd.grad(nn.functional.cross_entropy(out, y), held))

    for step in range(steps):
        g = gradient(theirs)
        if step < 6:  # until all is pruned
            norms = [w.norm(dim=1) for w in theirs]
            every = torch.cat(norms)
            low, high = every[every > 0].min(), every.max()
            radii = [
                ((rho_max - (s - low) / (high - low) * (rho_max - rho_min)) * (s > 0))[:, None]
                for s in norms
            ]
        else:
            radii = [torch.full((len(w), 1), rho) for w in theirs]
        t = [w.abs() + eta for w in theirs]
        norm = torch.cat([(a * b).flatten() for a, b in zip(t, g, strict=True)]).norm()
        moved = [w + r * a * a * b / norm for w, r, a, b in zip(theirs, radii, t, g, strict=True)]
        for w, b, step_gradient in zip(theirs, buffers, gradient(moved), strict=True):
            b.mul_(momentum).add_(step_gradient)
            w.sub_(lr * b)
        for w, m in zip(theirs, masks, strict=True):
            w.mul_(m)
        done = step + 1
        if done in (4, 6):  # from 0.2 to 0.6 of the run, every second step
            share = 1 - 0.5 ** ((done / steps - 0.2) / 0.4)
            gone = round(share * total)
            order = torch.cat([w.abs().flatten() for w in theirs]).sort().values
            for w, m in zip(theirs, masks, strict=True):
                m.mul_(w.abs() > (order[gone - 1] if gone else -math.inf))
                w.mul_(m)
    for p, w in zip(ours.parameters(), theirs, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-4, atol=1e-6)
    assert sum(int((w == 0).sum()) for w in theirs) == round(0.5 * total)
