"""Scorers' models in their true architecture, small and random, saved as the real ones are."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.rewards.aesthetic import score_head

SIDE = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def clip_tokenizer():
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({word: index for index, word in enumerate(words)}, [])


def clip_config():
    return CLIPConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "patch_size": 8,
            "image_size": SIDE,
            "hidden_act": "gelu",
        },
        text_config={
            "hidden_size": 64,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "vocab_size": 54,
            "max_position_embeddings": 77,
            "bos_token_id": 52,
            "eos_token_id": 53,
            "hidden_act": "gelu",
        },
        projection_dim=24,
        logit_scale_init_value=1.5,
    )


def random_weights(model, scale=0.2):
    """Draw weights large enough that scores depend on texts and images."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "logit_scale":
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale + ("norm" in name.lower()) * 1.0)
    return model.eval()


def save_processor(folder, **settings):
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessorPil(**{**size, **settings}).save_pretrained(folder)


def save_clip(folder, model=None):
    (model or random_weights(CLIPModel(clip_config()))).save_pretrained(folder)
    save_processor(folder)
    clip_tokenizer().save_pretrained(folder)
    return folder


def aesthetic_head(width=24):
    head = torch.nn.ModuleDict({"layers": score_head(width)})
    return random_weights(head, scale=0.05)


def save_head(file, head):
    save_file(head.state_dict(), file)
    return file


def normalized(picture):
    """Pixels ``[1, 3, H, W]`` of an image that has its final size."""
    pixels = ((np.asarray(picture) / 255.0 - MEAN) / STD).transpose(2, 0, 1)
    return torch.tensor(pixels[None], dtype=torch.float32)


def cropped(picture):
    """Shortest side to `SIDE`, then the middle, worked out with Pillow."""
    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    size = (int(width * scale), int(height * scale))
    image = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return image.crop((left, top, left + SIDE, top + SIDE))


def cropped_tensor(picture):
    """Shortest side to `SIDE` without antialiasing, rounded to integers, then the middle."""
    height, width = picture.shape[:2]
    size = (SIDE * height // min(height, width), SIDE * width // min(height, width))
    pixels = torch.tensor(picture.transpose(2, 0, 1)[None], dtype=torch.float32)
    small = torch.nn.functional.interpolate(pixels, size, mode="bicubic")[0].round().clamp(0, 255)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return small[:, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).numpy()


def padded(picture):
    """Longest side to `SIDE` in float, then black bars, worked out with Pillow; 0 to 255 and a little beyond."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = (round(width * scale), round(height * scale))
    colors = [Image.fromarray(picture[..., color].astype(np.float32)) for color in range(3)]
    small = np.stack([np.asarray(color.resize(size, Image.Resampling.BICUBIC)) for color in colors], axis=-1)
    square = np.zeros((SIDE, SIDE, 3), np.float32)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = small
    return square


def cosine(model, text, pixels):
    """By the two towers one by one, padded to the full length as the published scorers do."""
    tokens = clip_tokenizer()([text], padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        read = model.text_projection(model.text_model(**tokens).pooler_output)
        seen = model.visual_projection(model.vision_model(pixels).pooler_output)
        return float(torch.cosine_similarity(read, seen))


def pictures(count=5, height=48, width=96):
    """Soft random images."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (count, 6, 12, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in small]
    )
