"""Seekling, an open DeepSeek: train, customise, serve and release DeepSeek-style language models on your own computer.

>>> import seekling
>>> lm = seekling.load("runs/first")            # a run or any checkpoint folder
>>> engine = seekling.Engine(lm)
>>> engine.generate(["Once upon a time"], seekling.Sampling(max_tokens=40))[0].text

The names below are imported when first used, so that `import seekling` and `seekling --help` stay quick.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "load": "seekling.lm",
    "LM": "seekling.lm",
    "Engine": "seekling.engine",
    "Sampling": "seekling.engine",
    "Completion": "seekling.engine",
    "ModelConfig": "seekling.model.config",
    "SeeklingError": "seekling.errors",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'seekling' has no attribute {name!r}")
