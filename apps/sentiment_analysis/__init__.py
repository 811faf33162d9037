"""Sentiment analysis with LSTMs and attention."""
