"""The proof that weights carry: digests of what every block computes from a fixed input.

The input is made of integers alone, so every machine draws the same; the pass runs in float32
with full matmul precision. A block's digest is its output's mean, standard deviation, largest
magnitude and a few samples. Normalisation layers are also run by themselves on an input of
tiny variance, since a wrong epsilon hides where the variance is near one.

Tolerances (relative to a block's standard deviation, its largest magnitude for samples):
float32 on other hardware, with another order of summation, stays within 1e-5; one-pass
bfloat16 matmuls are off by 1e-3 and more, TF32 by 1e-4 and more. The bound is 5e-5 for blocks
and 3e-6 for normalisation layers by themselves, where nothing is summed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg import native
from jaxseg.errors import UserError
from jaxseg.models.clip import Clip
from jaxseg.models.grounding_dino import GroundingDino
from jaxseg.ops.images import canvas_mask, normalize
from jaxseg.structures import (
    BACKGROUND,
    FOREGROUND,
    NOT_A_POINT,
    Captions,
    ClipOutput,
    DetectorOutput,
    Images,
    Masks,
    Prompts,
)

FORMAT = 1
BLOCK_TOLERANCE = 5e-5
NORM_TOLERANCE = 3e-6
SAMPLES = 8
QUIET = 1e-3  # amplitude of what normalisation layers get by themselves
HOW = ("dtype", "param_dtype", "remat", "queries_at_once")  # how a model computes, not what
DEPTH = 2  # modules down to "encoder/layer_0", unless a model says otherwise


class Drift(NamedTuple):
    """How far one block's digest is from the recorded one.

    Attributes:
      name: of the block; "norm1 alone" for a normalisation layer by itself.
      error: largest relative difference; infinite where it is not finite or misshapen.
      tolerance: what is allowed.
    """

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def record_probe(
    name: str, kwargs: Mapping[str, Any], params: Mapping, image: Any, precision: str = "highest"
) -> dict[str, Any]:
    """Run a model on the probe's input and digest its blocks, as JSON-able data.

    Args:
      name, kwargs: of the builder; computes in float32 whatever dtype they say.
      params: nested arrays.
      image: an `ImageConfig`, for mean and standard deviation.
      precision: of matmuls; "default" shows what this chip does if not told otherwise.
    """
    plain = {k: v for k, v in kwargs.items() if k not in HOW}
    model = native.build_model(name, plain, "probe")
    with jax.default_matmul_precision(precision):
        blocks = run_probe(model, params, image)
    return {"format": FORMAT, "blocks": blocks}


def run_probe(model: nn.Module, params: Mapping, image: Any) -> list[dict[str, Any]]:
    """Digests of every block in the order of execution, the model's own outputs last."""
    depth = getattr(model, "probe_depth", DEPTH)
    trace = _Trace(params, depth)

    @jax.jit
    def forward(params, inputs):
        output, state = model.apply(
            {"params": params}, *inputs, mutable=["intermediates"], capture_intermediates=trace.keep
        )
        return state["intermediates"], _outputs(output)

    captured, outputs = jax.device_get(forward(params, probe_inputs(model, image)))
    alone = _run_norms(trace.norms, params)
    blocks = []
    for path, call in trace.order:
        name = "/".join(path)
        if call == 0 and path in trace.norms:
            blocks.append(digest(f"{name} alone", alone[name]))
        if len(path) <= depth:
            leaves = jax.tree.leaves(_at(captured, path)["__call__"][call])
            blocks += [digest(name, x) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return blocks + [digest(f"output {name}", x) for name, x in outputs.items()]


def _outputs(output: DetectorOutput | Masks | ClipOutput) -> dict[str, jax.Array]:
    if isinstance(output, ClipOutput):
        return {"logits": output.logits}
    if isinstance(output, Masks):
        return {"logits": output.logits, "iou": output.iou}
    masks = {name: x for name, x in output.extras.items() if name == "masks"}
    return {"logits": output.logits, "boxes": output.boxes, **masks}


class _Trace:
    """Notes what is called while a model is traced; jit returns its outputs sorted by name.

    Attributes:
      order: path and number of each call of a block or of a normalisation layer.
      norms: every normalisation layer by path, unbound.
    """

    def __init__(self, params: Mapping, depth: int):
        self.params = params
        self.depth = depth
        self.order: list[tuple[tuple[str, ...], int]] = []
        self.norms: dict[tuple[str, ...], nn.Module] = {}

    def keep(self, module: nn.Module, method: str) -> bool:
        path = module.path
        if method != "__call__" or not path:
            return False
        if hasattr(module, "epsilon") and self._normalises(path):
            self.norms[path] = module.clone(parent=None, name=None)
        block = len(path) <= self.depth
        if block or path in self.norms:
            self.order.append((path, sum(seen == path for seen, _ in self.order)))
        return block

    def _normalises(self, path: tuple[str, ...]) -> bool:
        # Other modules have an epsilon too, as of an inverse sigmoid.
        try:
            return "scale" in _at(self.params, path)
        except KeyError:
            return False


def probe_inputs(model: nn.Module, image: Any) -> tuple:
    """What a model is run on: images, and prompts or texts where it takes them."""
    side = getattr(model, "canvas_size", None)
    if isinstance(model, Clip):
        images = _images(side, side, [[side, side]] * 2, image)
        return images.pixels, _texts(model.text.context, model.text.vocabulary)
    if side is None:
        stride = model.stride
        height, width = 2 * stride, 3 * stride
        sizes = [[height, width], [height - stride // 2, width - stride]]
        images = _images(height, width, sizes, image)
        if isinstance(model, GroundingDino):
            return images, _captions(len(sizes), model.bert.vocabulary)
        return (images,)
    return _images(side, side, [[3 * side // 4, side]], image), _prompts(side, model.mask_size)


def _images(height: int, width: int, sizes: list[list[int]], image: Any) -> Images:
    """Pseudo-random pixels, normalised; what lies beyond the sizes is padding."""
    count = len(sizes)
    pixels = _noise(count * height * width * 3).reshape(count, height, width, 3)
    mask = canvas_mask(jnp.asarray(sizes), height, width)
    return normalize(Images(jnp.asarray(pixels, jnp.uint8), mask), image.mean, image.std)


def _prompts(side: int, low: int) -> Prompts:
    """A point of each label and a box, and a mask for all."""
    points = jnp.asarray([[[[0.25, 0.5], [0.75, 0.125], [0.5, 0.5]]]]) * side
    labels = jnp.asarray([[[FOREGROUND, BACKGROUND, NOT_A_POINT]]])
    boxes = jnp.asarray([[[0.125, 0.25, 0.625, 0.75]]]) * side
    masks = jnp.asarray(_noise(low * low).reshape(1, 1, low, low), jnp.float32) / 16 - 8
    return Prompts(points, labels, None, boxes, None, masks)


def _captions(count: int, vocabulary: int, length: int = 8) -> Captions:
    """Two phrases of three tokens each; the last caption has only the first of them."""
    ids = _noise(count * length).reshape(count, length).astype(np.int32) * (vocabulary - 1) // 256
    place = np.arange(length)
    phrase = np.where((place > 0) & (place < length - 1), 1 + (place - 1) // 3, -place)
    attend = np.tile(phrase[:, None] == phrase, (count, 1, 1))
    mask = np.ones((count, length), bool)
    mask[-1, 4:] = False
    attend[-1] = np.where(mask[-1][:, None] & mask[-1], attend[-1], np.eye(length, dtype=bool))
    positions = np.where(mask & (phrase > 0), (place - 1) % 3, 0).astype(np.int32)
    return jax.tree.map(jnp.asarray, Captions(ids, mask, attend, positions))


def _texts(context: int, vocabulary: int) -> jax.Array:
    """Ids of two texts; one ends in the middle and is padded with zeros."""
    ids = _noise(2 * context).reshape(2, context).astype(np.int32) * (vocabulary - 1) // 256
    ids[0, context // 2 :] = 0
    ids[0, context // 2] = ids[1, -1] = vocabulary - 1
    return jnp.asarray(ids)


def _noise(count: int) -> np.ndarray:
    # A 32-bit integer hash, so that no random generator's stream has to stay as it is.
    x = np.arange(1, count + 1, dtype=np.uint64)
    for multiplier in (0x45D9F3B, 0x119DE1F3):
        x = ((x ^ (x >> np.uint64(16))) * np.uint64(multiplier)) & np.uint64(0xFFFFFFFF)
    return (x >> np.uint64(24)).astype(np.uint8)


def _run_norms(norms: Mapping, params: Mapping) -> dict[str, np.ndarray]:
    def run(params):
        results = {}
        for path, norm in norms.items():
            own = _at(params, path)
            channels = own["scale"].shape[-1]
            quiet = (_noise(4 * channels).astype(np.float32) / 255 - 0.5) * QUIET
            quiet = jnp.asarray(quiet.reshape(1, 2, 2, channels))
            results["/".join(path)] = norm.apply({"params": own}, quiet)
        return results

    return jax.device_get(jax.jit(run)(params))


def _at(tree: Mapping, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def digest(name: str, x: np.ndarray) -> dict[str, Any]:
    """A few numbers that hardly any change of `x` leaves as they are."""
    x = np.asarray(x, np.float64)
    places = np.linspace(0, x.size - 1, SAMPLES).astype(int)
    return {
        "name": name,
        "shape": list(x.shape),
        "mean": float(x.mean()),
        "std": float(x.std()),
        "max": float(np.abs(x).max()),
        "samples": [float(value) for value in x.reshape(-1)[places]],
    }


def compare(recorded: Mapping[str, Any], blocks: list[dict[str, Any]]) -> list[Drift]:
    """Every recorded block's drift, in order of execution.

    Raises:
      UserError: a damaged probe, one of another format, or of a model with other blocks.
    """
    names = [block["name"] for block in blocks]
    try:
        if recorded["format"] == FORMAT and [b["name"] for b in recorded["blocks"]] == names:
            return [_drift(old, new) for old, new in zip(recorded["blocks"], blocks, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the recorded probe is damaged ({error!r}); save the weights again to renew it"
        ) from error
    raise UserError(
        "the probe was recorded by another version of this model, whose blocks differ; "
        "save the weights again to renew it"
    )


def _drift(old, new) -> Drift:
    tolerance = NORM_TOLERANCE if old["name"].endswith(" alone") else BLOCK_TOLERANCE
    spread = max(old["std"], 1e-30)
    scale = max(old["max"], 1e-30)
    errors = [abs(new[key] - old[key]) / spread for key in ("mean", "std")]
    errors.append(abs(new["max"] - old["max"]) / scale)
    errors += [abs(a - b) / scale for a, b in zip(new["samples"], old["samples"], strict=True)]
    same = old["shape"] == new["shape"] and np.all(np.isfinite(errors))
    return Drift(old["name"], max(errors) if same else float("inf"), tolerance)
