"""Muon for the matrices and AdamW for the rest.

Muon (Keller Jordan et al., 2024) orthogonalises the momentum of every weight matrix by five
Newton-Schulz steps; the 0.2 * sqrt(max(rows, columns)) scale (Liu et al., "Muon is scalable for
LLM training", 2025) gives its updates the size of AdamW's, so that one learning rate serves both.
"""

import torch

from runtime import fast_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices, *, steps=5):
    """`[..., rows, columns]`: each matrix with its singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if fast_bfloat16(x.device) else x.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Matrices (convolutions flattened to [out, rest]) by Muon, vectors by AdamW, at one learning rate `lr`.

    `slow` are parameters that take only `slow_rate` of it.
    """

    def __init__(
        self, params, *, lr, slow=(), slow_rate=0.1, momentum=0.95, weight_decay=0.01, adam_betas=(0.9, 0.98)
    ):
        self.params = list(params)
        slow = {id(p) for p in slow}
        self.rates = {id(p): slow_rate if id(p) in slow else 1.0 for p in self.params}
        self.matrices = [p for p in self.params if p.ndim >= 2]
        self.alike = {}  # indices of the matrices of each shape: a GPU takes them in one product
        for k, p in enumerate(self.matrices):
            self.alike.setdefault(p.flatten(1).shape, []).append(k)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = [torch.zeros_like(p) for p in self.matrices]
        vectors = [p for p in self.params if p.ndim < 2]
        groups = [
            {"params": [p for p in vectors if self.rates[id(p)] == rate], "rate": rate}
            for rate in sorted({self.rates[id(p)] for p in vectors})
        ]
        self.adam = torch.optim.AdamW(groups, lr=lr, betas=adam_betas, weight_decay=0)
        self.lr = lr

    @torch.no_grad()
    def step(self):
        for group in self.adam.param_groups:
            group["lr"] = self.lr * group["rate"]
        self.adam.step()
        grads = [p.grad for p in self.matrices]
        torch._foreach_lerp_(self.velocity, grads, 1 - self.momentum)
        towards = torch._foreach_lerp(grads, self.velocity, self.momentum)
        updates = [None] * len(towards)
        for shape, members in self.alike.items():
            size = 0.2 * max(shape) ** 0.5
            turned = orthogonalized(torch.stack([towards[k].flatten(1) for k in members]))
            for k, update in zip(members, turned, strict=True):
                p = self.matrices[k]
                updates[k] = (update * (size * self.rates[id(p)])).view_as(p)
        torch._foreach_mul_(self.matrices, 1 - self.lr * self.weight_decay)
        torch._foreach_add_(self.matrices, updates, alpha=-self.lr)

    def state_dict(self):
        return {"velocity": self.velocity, "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        for own, saved in zip(self.velocity, state["velocity"], strict=True):
            own.copy_(saved)
        self.adam.load_state_dict(state["adam"])
