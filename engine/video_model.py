"""The parts of a bundle's video model in memory: text encoder, transformer, VAE, scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from transformers import AutoTokenizer, T5EncoderModel

from engine.adapters import ResidentLoras
from engine.attention import RegionAttnProcessor
from engine.encodings import Encodings
from engine.models import Bundle
from engine.patch_embed import RegionPatchEmbed
from engine.regions import Grid


class VideoModel:
    """A resident video model. What it encodes is kept, so each caption and clip is encoded once."""

    def __init__(self, bundle: Bundle, device: str = "cpu", dtype: str | None = None) -> None:
        self.bundle, self.device = bundle, torch.device(device)
        self.dtype: torch.dtype = getattr(torch, dtype or bundle.dtype)
        path = bundle.video_path
        load: dict[str, Any] = {"torch_dtype": self.dtype, "use_safetensors": True}
        self.tokenizer = AutoTokenizer.from_pretrained(path, subfolder="tokenizer")
        self.text_encoder = T5EncoderModel.from_pretrained(
            path, subfolder="text_encoder", dtype=self.dtype, use_safetensors=True
        )
        self.vae = AutoencoderKLCogVideoX.from_pretrained(path, subfolder="vae", **load)
        transformer = CogVideoXTransformer3DModel.from_pretrained(path, subfolder="transformer", **load)
        self.transformer = prepare_transformer(transformer)
        self.loras = ResidentLoras(self.transformer, base=bundle.base)
        self.scheduler_config = CogVideoXDPMScheduler.load_config(path, subfolder="scheduler")
        for part in (self.text_encoder, self.vae, self.transformer):
            part.requires_grad_(False).eval()
        self.vae.to(self.device)
        self.transformer.to(self.device)
        self.encodings = Encodings(f"{bundle.fingerprint} {self.device.type} {self.dtype}")

    def new_scheduler(self, num_inference_steps: int) -> CogVideoXDPMScheduler:
        scheduler = CogVideoXDPMScheduler.from_config(self.scheduler_config)
        scheduler.set_timesteps(num_inference_steps)
        return scheduler

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Frames, channels, height, width of one clip's latents."""
        b, config = self.bundle, self.vae.config
        space = 2 ** (len(config.block_out_channels) - 1)
        frames = (b.num_frames - 1) // config.temporal_compression_ratio + 1
        return frames, config.latent_channels, b.height // space, b.width // space

    @property
    def grid(self) -> Grid:
        frames, _, height, width = self.latent_shape
        patch = self.transformer.config.patch_size
        return Grid(frames, height // patch, width // patch)

    @torch.no_grad()
    def encode_texts(self, captions: Iterable[str]) -> list[torch.Tensor]:
        """For each caption (1, text_tokens, text width), padding included, as CogVideoX was trained. The text encoder
        is on the GPU meanwhile alone: afterwards its room is a scene's activations'."""

        def encode(caption: str) -> torch.Tensor:
            tokens = self.tokenizer(
                caption, max_length=self.bundle.text_tokens, padding="max_length", truncation=True, return_tensors="pt"
            )
            return self.text_encoder.to(self.device)(tokens.input_ids.to(self.device))[0]

        try:
            found = [self.encodings.get("text", c.encode(), partial(encode, c)) for c in captions]
        finally:
            self.text_encoder.to("cpu")
        return [text.to(self.device) for text in found]

    @torch.no_grad()
    def decode(self, latents_BFCHW: torch.Tensor) -> torch.Tensor:
        """Latents (1, frames, channels, height, width) -> frames uint8 (T, H, W, 3) on the CPU."""
        z = latents_BFCHW.to(self.device, self.dtype).permute(0, 2, 1, 3, 4) / self.vae.config.scaling_factor
        video = self.vae.decode(z).sample[0].float()
        return ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()

    def rotary(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The rotary table of a model that uses one (5B): cosine and sine (visual tokens, head size)."""
        config = self.transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        grid = self.grid
        crops = get_resize_crop_region_for_grid((grid.rows, grid.columns), base[1], base[0])
        cos, sin = get_3d_rotary_pos_embed(
            config.attention_head_dim, crops, (grid.rows, grid.columns), grid.frames, device=self.device
        )
        return cos, sin


def prepare_transformer(transformer: CogVideoXTransformer3DModel) -> CogVideoXTransformer3DModel:
    """Gives a stock transformer region attention and any text length; its forward and weights stay diffusers'."""
    transformer.patch_embed = RegionPatchEmbed(transformer.patch_embed)
    transformer.set_attn_processor(RegionAttnProcessor())
    return transformer
