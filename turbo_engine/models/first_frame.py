"""A clip that starts from a picture: what Wan2.2's I2V network is shown beside the noise."""
import torch
import torch.nn.functional as F
from torch import Tensor

from turbo_engine.models.wan_vae import WanVAE

MASK_CHANNELS = 4        # one for each pixel frame of a latent frame
GREY = 0.5               # of the frames that are not known; 0 after the change to [-1, 1]


def size_like(height: int, width: int, *, area: int, step: int = 16) -> tuple[int, int]:
    """(height, width) in a picture's proportions, each a multiple of `step`, of about `area` pixels."""
    scale = (area / (height * width)) ** 0.5
    return tuple(max(step, round(side * scale / step) * step) for side in (height, width))


def first_frame_condition(vae: WanVAE, image: Tensor, num_frames: int, height: int, width: int, *, chunk: int = 1,
                          tile: int | None = None) -> Tensor:
    """Mask and latent of a clip of which only the first frame is known.

    Args:
        image: [B, 3, h, w] in [0, 1], any size; it is stretched to the clip's (bilinear, antialiased), so crop it before.
        num_frames: of the clip, 4k + 1. height, width: of the clip, pixels. chunk, tile: as `WanVAE.encode`.
    Returns: [B, 4 + C, k + 1, height / 8, width / 8] float32; the mask is 1 in the first latent frame.
    Raises: ValueError for any other length.
    """
    image = F.interpolate(image.float(), (height, width), mode="bilinear", antialias=True).clamp(0, 1)
    frames = torch.full((len(image), 3, num_frames, height, width), GREY, device=image.device)
    frames[:, :, 0] = image
    latent = vae.encode(frames, chunk=chunk, tile=tile)
    mask = latent.new_zeros(len(latent), MASK_CHANNELS, *latent.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat((mask, latent), 1)
