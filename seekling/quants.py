"""What a model's weights can be quantised to as it is opened; `seekling.engine.packed` and `seekling.engine.quant` say how."""

from typing import Literal, get_args

Quant = Literal["int8", "int4", "int4-64"]
QUANTS: tuple[str, ...] = get_args(Quant)
