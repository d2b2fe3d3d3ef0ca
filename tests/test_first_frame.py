"""What an image-to-video network is shown of its first frame."""
import pytest
import torch

from turbo_engine.models.config import WanVAEConfig
from turbo_engine.models.first_frame import first_frame_condition, size_like
from turbo_engine.models.wan_vae import WanVAE


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(WanVAEConfig(4, 8, (1, 1, 1, 1), (0.1,) * 4, (2.0,) * 4)).requires_grad_(False)


def test_mask_and_latent(vae):
    """One clip, the picture and then mid-grey, encoded as a whole; 1 marks the four channels of the known frame."""
    image = torch.rand(2, 3, 32, 48)
    condition = first_frame_condition(vae, image, 9, 32, 48)
    assert condition.shape == (2, 8, 3, 4, 6) and condition.dtype == torch.float32
    assert torch.equal(condition[:, :4, 0], torch.ones(2, 4, 4, 6)) and condition[:, :4, 1:].abs().max() == 0
    clip = torch.cat((image[:, :, None], torch.full((2, 3, 8, 32, 48), 0.5)), 2)
    torch.testing.assert_close(condition[:, 4:], vae.encode(clip))
    torch.testing.assert_close(first_frame_condition(vae, image, 9, 32, 48, chunk=3), condition)


def test_a_picture_of_another_size_is_stretched(vae):
    """A smooth ramp keeps its ends and its slope, and stays in range."""
    ramp = torch.linspace(0, 1, 100).expand(1, 3, 50, 100)
    condition = first_frame_condition(vae, ramp, 1, 32, 64)
    expected = first_frame_condition(vae, (torch.arange(64) + 0.5).div(64).expand(1, 3, 32, 64), 1, 32, 64)
    torch.testing.assert_close(condition, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("height, width, expected", [(720, 1280, (720, 1280)), (1000, 1000, (960, 960)), (3000, 100, (5264, 176)), (9, 16, (720, 1280))])
def test_sizes_keep_the_proportions(height, width, expected):
    found = size_like(height, width, area=1280 * 720)
    assert found == expected and all(side % 16 == 0 for side in found)
