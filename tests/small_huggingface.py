"""Detectors of transformers small enough for tests, with random weights, beside ours."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import ResNetConfig

from jaxseg.structures import Images
from tests.quick import quick_jit

NAMES = {0: "N/A", 1: "cell", 2: "platelet"}
SIZES = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 7,
    "id2label": NAMES,
}


def resnet18(stages):
    """transformers' own ResNet, so that neither timm nor torchvision is needed."""
    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=stages,
    )


def resnet50(stages):
    """As wide as timm has it."""
    return ResNetConfig(out_features=stages)


def randomise(model, seed=0):
    """Draw statistics and weights so that outputs differ from query to query."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                # Smaller ones make features so large that attention is 0 or 1.
                tensor.uniform_(1, 4)
            elif name.endswith("activation_fn.weight"):
                tensor.uniform_(0.2, 0.8)
            elif name.endswith(("running_mean", "bias")) and "sampling_offsets" not in name:
                tensor.normal_(0, 0.1)
            elif tensor.ndim > 1:
                wide = any(word in name for word in ("embeddings", "level_embed", "patterns"))
                tensor.normal_(0, 1 if wide else (2 / tensor[0].numel()) ** 0.5)
    return model.eval()


def padded_batch(height=64, width=128):
    """Two images on one canvas, the second one padded."""
    pixels = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    mask = np.zeros((2, height, width), bool)
    mask[0], mask[1, : height - 10, : width - 40] = True, True
    return pixels * mask[..., None], mask


def single_image(height=64, width=128):
    """One image that fills its canvas."""
    pixels, mask = padded_batch(height, width)
    return pixels[:1], mask[:1]


def differences(theirs, ours, params, batch):
    """The largest differences of logits and boxes; the outputs must differ among queries."""
    pixels, mask = batch
    with torch.no_grad():
        wanted = theirs(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            pixel_mask=torch.from_numpy(mask.astype(np.int64)),
        )
    with jax.default_matmul_precision("highest"):
        images = Images(jnp.asarray(pixels), jnp.asarray(mask))
        found = quick_jit(ours.apply)({"params": params}, images)
    # Far more than rounding: no constants are compared.
    assert wanted.logits.std(dim=1).mean() > 0.004
    assert wanted.pred_boxes.std(dim=1).mean() > 0.02
    return {
        "logits": np.abs(found.logits[-1] - wanted.logits.numpy()).max(),
        "boxes": np.abs(found.boxes[-1] - wanted.pred_boxes.numpy()).max(),
    }
