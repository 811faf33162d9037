"""Speech recognition: from audio to text by CTC or by attention."""
