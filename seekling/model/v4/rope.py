"""Rotation of the last channels of a vector, and back (V4 §2.3).

Keys are values at the same time, so what attention adds up carries the keys' rotation; turning it back by the query's position
leaves each value turned by its distance only.  That is why, unlike ``model.rope.rotate``, the pairs must stay where they are.

Shapes: ... any, P channels, R of them rotated (the last), in pairs (2i, 2i+1).
"""

import torch
from torch import Tensor


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the last R channels of ``x`` (..., P) by the angles of ``cos``/``sin`` (..., R/2); negated ``sin`` turns back.

    The channels are rounded to float32 first, as transformers does; narrower dtypes are widened to it.
    """
    rotated = 2 * cos.shape[-1]
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = cos.to(wide), sin.to(wide)
    a, b = x[..., -rotated::2].float(), x[..., -rotated + 1 :: 2].float()
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)
    return torch.cat([x[..., :-rotated], turned], -1)
