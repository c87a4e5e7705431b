"""What a model's weights can be quantised to as it is opened; `seekling.engine.packed` and `seekling.engine.quant` say how."""

QUANTS = ("int8", "int4", "int4-64")
