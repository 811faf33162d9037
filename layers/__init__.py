"""Custom Keras layers shared by the applications."""

from layers.additive_attention import AdditiveAttention
from layers.atrous_spatial_pyramid_pooling import AtrousSpatialPyramidPooling
from layers.bigram_classifier import BigramClassifier
from layers.box_decoder import BoxDecoder
from layers.dense_crf import DenseCRF
from layers.feature_pyramid import FeaturePyramid
from layers.gaussian_sampling import GaussianSampling
from layers.gru import GRU
from layers.log_mel_spectrogram import LogMelSpectrogram
from layers.lstm import LSTM
from layers.minibatch_standard_deviation import MinibatchStandardDeviation
from layers.multiplicative_attention import MultiplicativeAttention
from layers.residual_block import ResidualBlock
from layers.roi_align import RoIAlign
from layers.spec_augment import SpecAugment

__all__ = [
    "GRU",
    "LSTM",
    "AdditiveAttention",
    "AtrousSpatialPyramidPooling",
    "BigramClassifier",
    "BoxDecoder",
    "DenseCRF",
    "FeaturePyramid",
    "GaussianSampling",
    "LogMelSpectrogram",
    "MinibatchStandardDeviation",
    "MultiplicativeAttention",
    "ResidualBlock",
    "RoIAlign",
    "SpecAugment",
]
