"""From rows of token ids to logits, over a cache: two ways to run a model, and the choice between them."""
