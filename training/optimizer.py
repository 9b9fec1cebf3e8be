"""Muon for the matrices and AdamW for the rest.

Muon (Keller Jordan et al., 2024) orthogonalises the momentum of every weight matrix by five
Newton-Schulz steps; the 0.2 * sqrt(max(rows, columns)) scale (Liu et al., "Muon is scalable for
LLM training", 2025) gives its updates the size of AdamW's, so that one learning rate serves both.
"""

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix, *, steps=5):
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return (x.T if tall else x).float()


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
        updates = []
        for p, grad, velocity in zip(self.matrices, grads, self.velocity, strict=True):
            flat = torch.lerp(grad, velocity, self.momentum).flatten(1)
            size = 0.2 * max(flat.shape) ** 0.5 * self.rates[id(p)]
            updates.append((orthogonalized(flat) * size).view_as(p))
        torch._foreach_mul_(self.matrices, 1 - self.lr * self.weight_decay)
        torch._foreach_add_(self.matrices, updates, alpha=-self.lr)

    def state_dict(self):
        return {"velocity": self.velocity, "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        for own, saved in zip(self.velocity, state["velocity"], strict=True):
            own.copy_(saved)
        self.adam.load_state_dict(state["adam"])
