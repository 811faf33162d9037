"""Custom Keras layers shared by the applications."""

from layers.residual_block import ResidualBlock

__all__ = ["ResidualBlock"]
