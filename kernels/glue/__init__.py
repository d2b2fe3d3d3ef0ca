"""What stands between a transformer's products, one pass each: residual, norm, modulation, rotation, activation, rounding to 8 bits."""
