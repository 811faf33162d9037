"""Custom Keras layers shared by the applications."""

from layers.atrous_spatial_pyramid_pooling import AtrousSpatialPyramidPooling
from layers.dense_crf import DenseCRF
from layers.residual_block import ResidualBlock

__all__ = ["AtrousSpatialPyramidPooling", "DenseCRF", "ResidualBlock"]
