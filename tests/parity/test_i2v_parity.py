"""Image to video in full, as Wan2.2 A14B renders it: diffusers' pipeline against our parts, narrow networks, the same weights."""
import warnings

import pytest
import torch
from peers import diffusers, dit_peer, randomize, relative_error, unipc_peer, vae_peer

from turbo_engine.denoiser import Denoiser
from turbo_engine.models.config import DiTConfig, WanVAEConfig
from turbo_engine.models.dit import DiT
from turbo_engine.models.experts import HIGH, LOW, Experts
from turbo_engine.models.first_frame import first_frame_condition
from turbo_engine.models.wan_vae import WanVAE
from turbo_engine.samplers import SAMPLERS
from turbo_engine.schedule import flow_times

DIT = DiTConfig(dim=48, num_heads=2, num_layers=1, ffn_dim=64, in_channels=12, out_channels=4, prediction="velocity", patch_size=(1, 2, 2),
                text_dim=16, text_len=5, freq_dim=16, time_max_freq=1.0, rope_theta=10_000.0, eps=1e-6)
VAE = WanVAEConfig(latent_channels=4, width=8, multipliers=(1, 1, 1, 1), latent_mean=(0.3, -0.7, 0.1, 0.5), latent_std=(1.2, 2.5, 0.8, 1.9))
STEPS, SHIFT, BOUNDARY = 12, 5.0, 0.9
GUIDANCE = {HIGH: 3.0, LOW: 4.5}


@pytest.fixture(scope="module")
def parts():
    networks = {name: randomize(DiT(DIT), seed) for seed, name in enumerate((HIGH, LOW))}
    vae = randomize(WanVAE(VAE), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers().WanImageToVideoPipeline(
            tokenizer=None, text_encoder=None, vae=vae_peer(vae), scheduler=unipc_peer(STEPS, SHIFT), image_encoder=None,
            image_processor=None, transformer=dit_peer(networks[HIGH]), transformer_2=dit_peer(networks[LOW]), boundary_ratio=BOUNDARY)
    pipeline.set_progress_bar_config(disable=True)
    return networks, vae, pipeline


def test_a_whole_clip(parts):
    networks, vae, pipeline = parts
    torch.manual_seed(7)
    image, noise = torch.rand(1, 3, 32, 48), torch.randn(1, 4, 3, 4, 6)
    text, away = torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    expected = pipeline(image=image, height=32, width=48, num_frames=9, num_inference_steps=STEPS, guidance_scale=GUIDANCE[HIGH],
                        guidance_scale_2=GUIDANCE[LOW], latents=noise, prompt_embeds=text, negative_prompt_embeds=away,
                        output_type="pt").frames[0]                                             # [T, 3, H, W] in [0, 1]
    condition, ran = first_frame_condition(vae, image, 9, 32, 48), []

    def open_expert(name: str) -> Denoiser:
        network = networks[name]
        return Denoiser(network, network.embed_text(text), unconditional=network.embed_text(away), guidance_scale=GUIDANCE[name],
                        rounding="integer", condition=condition)

    experts = Experts(open_expert, BOUNDARY)
    for step in SAMPLERS["unipc"](experts, noise, flow_times(STEPS, SHIFT), draw=lambda: pytest.fail("no draw")):
        ran.append(experts.ran)
        latent = step.latent
    frames = vae.decode(latent.float())[0].transpose(0, 1)
    assert ran.count(HIGH) == sum(int(1000 * t) >= 900 for t in flow_times(STEPS, SHIFT)[:-1]) and LOW in ran
    assert experts.nfe == 2 * STEPS
    assert frames.std() > 0.1
    assert relative_error(frames - 0.5, expected - 0.5) < 1e-5
