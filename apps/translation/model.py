"""The network: an LSTM encoder and an LSTM decoder with attention."""

import keras

import layers
from apps.common.decoder import AttentionDecoder, make_embedding
from apps.common.text import PADDING


@keras.saving.register_keras_serializable(package="translation")
class EncoderDecoder(keras.Model):
    """An LSTM encoder-decoder with attention, input feeding and tied embeddings.

    The encoder is a bidirectional LSTM; the decoder is an `AttentionDecoder`.

    Args:
        source_vocabulary_size: Size of the source vocabulary.
        target_vocabulary_size: Size of the target vocabulary. None if both languages
            share one vocabulary and its embedding.
        embedding_size: Size of the token embeddings.
        encoder_units: Units of the encoder, in each direction.
        decoder_units: Units of the decoder.
        attention: `additive` (Bahdanau), `multiplicative` (Luong) or `none`, where the
            context is the mean of the encoder's outputs.
        attention_units: Units of additive attention.
        embedding_dropout: Dropout of the embeddings.
        dropout: Dropout of the encoder's outputs and of the readouts.
        scheduled_sampling: Whether training replaces some target tokens by the
            decoder's own predictions. The variable `teacher_forcing_rate` is the
            fraction of tokens that are kept; it starts at 1.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Source token ids, int32 `(batch, source_steps)`, padded with zeros at
            the end, and the target token ids before each step, int32 `(batch, steps)`,
            which begin with `START`.
        training: Whether to apply dropout and scheduled sampling.

    Output shape:
        `(batch, steps, target_vocabulary_size)`, logits of the next token.

    Reference:
        [Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473)
    """

    def __init__(
        self,
        *,
        source_vocabulary_size,
        target_vocabulary_size,
        embedding_size,
        encoder_units,
        decoder_units,
        attention,
        attention_units,
        embedding_dropout,
        dropout,
        scheduled_sampling,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.arguments = {
            "source_vocabulary_size": source_vocabulary_size,
            "target_vocabulary_size": target_vocabulary_size,
            "embedding_size": embedding_size,
            "encoder_units": encoder_units,
            "decoder_units": decoder_units,
            "attention": attention,
            "attention_units": attention_units,
            "embedding_dropout": embedding_dropout,
            "dropout": dropout,
            "scheduled_sampling": scheduled_sampling,
        }
        self.source_embedding = make_embedding(source_vocabulary_size, embedding_size)
        target_embedding = self.source_embedding
        if target_vocabulary_size:
            target_embedding = make_embedding(target_vocabulary_size, embedding_size)
        self.embedding_dropout = keras.layers.Dropout(embedding_dropout)
        self.dropout = keras.layers.Dropout(dropout)
        self.encoder = keras.layers.Bidirectional(
            layers.LSTM(encoder_units, return_sequences=True)
        )
        self.decoder = AttentionDecoder(
            target_embedding,
            units=decoder_units,
            attention=attention,
            attention_units=attention_units,
            embedding_dropout=embedding_dropout,
            dropout=dropout,
            scheduled_sampling=scheduled_sampling,
        )

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), **self.arguments}

    def call(self, inputs, training=False):
        """Returns the logits of the next token at every step."""
        source_ids, target_ids = inputs
        memory = self.encode(source_ids, training=training)
        return self.decoder(target_ids, memory, training=training)

    def encode(self, token_ids, has_padding=True, training=False):
        """Encodes source sentences.

        Args:
            token_ids: int32 `(batch, steps)`.
            has_padding: Whether zeros at the end are padding. If False, TensorFlow Lite
                runs each direction of the LSTM as one fused operation.
            training: Whether to apply dropout.

        Returns:
            The `Memory`.
        """
        mask = keras.ops.not_equal(token_ids, PADDING) if has_padding else None
        x = self.source_embedding(token_ids)
        x = self.embedding_dropout(x, training=training)
        x = self.encoder(x, mask=mask, training=training)
        return self.decoder.remember(self.dropout(x, training=training), mask)
