"""Semantic segmentation, refined by a fully connected CRF."""
