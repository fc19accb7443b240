"""Tests through the public surface only: they do not know the inside, so that it can be rebuilt under them."""
