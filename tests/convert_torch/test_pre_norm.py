"""Pre-norm layers against torch's own, which share the official names."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxseg_convert_torch import to_state_dict
from tests.small_detr import FIELDS, drawn, small

WIDTH, HEADS, QUERIES = (FIELDS[name] for name in ("width", "num_heads", "num_queries"))


def torch_transformer(state):
    sizes = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": FIELDS["feedforward"]}
    with warnings.catch_warnings():  # it has no faster path for norm_first, and says so
        warnings.simplefilter("ignore", UserWarning)
        model = torch.nn.Transformer(
            num_encoder_layers=2, num_decoder_layers=2, batch_first=True, norm_first=True, **sizes
        )
    prefix = "transformer."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in own.items()})
    return model.eval()


def decode_officially(decoder, query, memory, place):
    """The official `forward_pre`, which torch's decoder lacks positions for."""
    x, states = torch.zeros_like(query), []
    for layer in decoder.layers:
        y = layer.norm1(x)
        x = x + layer.self_attn(y + query, y + query, y)[0]
        y = layer.norm2(x)
        x = x + layer.multihead_attn(y + query, memory + place, memory)[0]
        x = x + layer.linear2(torch.relu(layer.linear1(layer.norm3(x))))
        states.append(decoder.norm(x))
    return torch.stack(states)


def test_pre_norm_gives_torchs_outputs():
    ours = small(pre_norm=True, dropout=0.0)
    params, generator = drawn(ours), np.random.default_rng(0)
    model = torch_transformer(to_state_dict("detr", params))
    tokens, place = generator.standard_normal((2, 2, 12, WIDTH)).astype(np.float32)
    query = generator.standard_normal((2, QUERIES, WIDTH)).astype(np.float32)
    mask = np.ones((2, 12), bool)
    with torch.no_grad():
        # Torch's encoder knows no positions, so ours gets none here.
        memory = model.encoder(torch.from_numpy(tokens))
        states = decode_officially(
            model.decoder, torch.from_numpy(query), memory, torch.from_numpy(place)
        )
    tokens, place, query, mask = map(jnp.asarray, (tokens, place, query, mask))
    with jax.default_matmul_precision("highest"):
        found = ours.encoder.apply(
            {"params": params["encoder"]}, tokens, jnp.zeros_like(tokens), mask
        )
        decoded = ours.decoder.apply({"params": params["decoder"]}, query, found, place, mask)
    np.testing.assert_allclose(found, memory, atol=2e-5)
    np.testing.assert_allclose(decoded, states, atol=5e-5)
