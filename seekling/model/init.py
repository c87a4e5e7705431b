"""The one place where weights get their first values (V3 §4.2: normal, one standard deviation for all matrices)."""

import hashlib

import torch
from torch import nn


def seeded_generator(seed: int, name: str) -> torch.Generator:
    """A generator that depends on the seed and the tensor's name only, not on the order in which tensors are made."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def init_weights(model: nn.Module, seed: int, std: float) -> None:
    """Fill every parameter and persistent buffer once: norms and stream scales 1, biases 0, everything else normal(0, std);
    a table of experts by token id gets different random experts in each row.

    Raises:
        RuntimeError: when a tensor is of no known kind, so that a new layer cannot be left empty by mistake.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        leaf = name.rsplit(".", 1)[-1]
        if leaf.endswith("bias") or leaf in ("base", "hc_base"):
            tensor.zero_()
        elif leaf in ("scale", "hc_scale"):
            tensor.fill_(1.0)
        elif leaf == "tid2eid":
            experts = model.get_parameter(name.removesuffix(leaf) + "weight").shape[0]
            drawn_VE = torch.rand(tensor.shape[0], experts, generator=seeded_generator(seed, name))
            tensor.copy_(drawn_VE.argsort(-1)[:, : tensor.shape[1]])
        elif tensor.dim() == 1 and name.endswith("norm.weight"):
            tensor.fill_(1.0)
        elif tensor.dim() >= 2 or leaf == "sinks":
            values = torch.empty(tensor.shape, dtype=torch.float32)
            values.normal_(0.0, std, generator=seeded_generator(seed, name))
            tensor.copy_(values)
        else:
            raise RuntimeError(f"init_weights knows no rule for {name} of shape {tuple(tensor.shape)}")
