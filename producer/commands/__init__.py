"""The commands of `genqueue`, a file for each kind. `producer.cli` puts them together."""
