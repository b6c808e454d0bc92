"""From a model's name to its folder, and the tiny model that is trained on first use."""
