"""Muon: momentum whose steps are orthogonalized; the work is shared by ranks."""

import torch
import torch.distributed as dist

# Quintic Newton-Schulz coefficients of K. Jordan, "Muon" (2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(g: torch.Tensor, num_iterations: int = 5) -> torch.Tensor:
    """Returns about U V^T of g = U S V^T; g is [rows, cols]."""
    a, b, c = NEWTON_SCHULZ
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for matrices. Every rank must hold the same averaged gradients.

    Each rank orthogonalizes its share of the matrices; one all-reduce joins them.
    """

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.05):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self):
        world = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if dist.is_initialized() else 0
        for group in self.param_groups:
            params = group["params"]
            flat = params[0].new_zeros(sum(p.numel() for p in params))
            updates = flat.split([p.numel() for p in params])
            for i, (p, update) in enumerate(zip(params, updates, strict=True)):
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                if i % world == rank:
                    nesterov = p.grad.lerp(buffer, group["momentum"])
                    update.copy_(orthogonalize(nesterov).flatten())
            if world > 1:
                dist.all_reduce(flat)
            for p, update in zip(params, updates, strict=True):
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)
