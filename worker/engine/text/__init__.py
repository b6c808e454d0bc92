"""Between text and token ids: the tokenizer, text piece by piece, stop strings. Knows no logits and no model."""
