"""DeepSeek's chat formats, V2 to V4, built in: their folders ship templates with known faults, or Python instead of one."""

from seekling.text.deepseek.encode import encode
from seekling.text.deepseek.generations import GENERATIONS, Generation

__all__ = ["GENERATIONS", "Generation", "encode"]
