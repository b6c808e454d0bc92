"""From logits to the next token. Knows the sampling fields of a request, and nothing of models or text."""
