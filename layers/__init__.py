"""Custom Keras layers shared by the applications."""

from layers.additive_attention import AdditiveAttention
from layers.atrous_spatial_pyramid_pooling import AtrousSpatialPyramidPooling
from layers.bigram_classifier import BigramClassifier
from layers.dense_crf import DenseCRF
from layers.gru import GRU
from layers.lstm import LSTM
from layers.multiplicative_attention import MultiplicativeAttention
from layers.residual_block import ResidualBlock

__all__ = [
    "GRU",
    "LSTM",
    "AdditiveAttention",
    "AtrousSpatialPyramidPooling",
    "BigramClassifier",
    "DenseCRF",
    "MultiplicativeAttention",
    "ResidualBlock",
]
