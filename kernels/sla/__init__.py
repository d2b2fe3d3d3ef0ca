"""Sparse-linear attention: softmax over a few key blocks, a linear branch over all of them. README.md derives it."""
