"""Linear layers in 8 bits: one scale per token and one per output channel, products of 8-bit numbers, sums in 32 bits."""
