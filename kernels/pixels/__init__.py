"""What stands between a video decoder's convolutions, one pass: bias, residual, norm over the channels, SiLU, room for the past."""
