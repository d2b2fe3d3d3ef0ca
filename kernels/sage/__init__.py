"""Softmax attention whose two products run in 8 bits."""
