"""Translation with an LSTM encoder and decoder, attention and beam search."""
