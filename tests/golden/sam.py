"""Kinds `sam/*` with weights: the whole model, and its parts alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.backbones.vit_blocks import RelativeAttention, relative_positions
from jaxseg.data.segmentation import decode_segmentation
from jaxseg.models.sam import Sam
from jaxseg.models.sam import sam as build_sam
from jaxseg.models.sam.mask_decoder import MaskDecoder
from jaxseg.models.sam.prompt_encoder import Encoded, PromptEncoder
from jaxseg.models.sam.two_way import TwoWayTransformer
from jaxseg.nn.transposed_conv import in_order
from jaxseg.ops.images import normalize
from jaxseg.ops.windows import from_windows, pad_to_multiple, to_windows
from jaxseg.predict.canvas import Canvas
from jaxseg.predict.crops import NEAR
from jaxseg.predict.mask_generator import AutomaticMaskGenerator
from jaxseg.predict.preprocess import load_image
from jaxseg.predict.sam_predictor import THRESHOLD, SamPredictor
from jaxseg.structures import Prompts
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import expect, nchw
from tests.goldens import compare
from tests.quick import quick_jit

NECK = ("conv1", "norm1", "conv2", "norm2")


def build(config) -> Sam:
    """The SAM of a case's config."""
    encoder, prompts, decoder = (
        config[name] for name in ("image_encoder", "prompt_encoder", "mask_decoder")
    )
    side, grid = encoder["img_size"], encoder["img_size"] // encoder["patch_size"]
    expect(encoder, in_chans=3, qkv_bias=True, use_abs_pos=True, activation="gelu_erf")
    expect(encoder, block_norm_eps=1e-6, neck_norm_eps=1e-6, dropout=0.0, drop_path=0.0)
    expect(encoder, pos_embed_size=[grid, grid], out_chans=prompts["embed_dim"])
    rows = {"window": 2 * encoder["window_size"] - 1, "global": 2 * grid - 1}
    expect(encoder, rel_pos_rows=rows)
    expect(encoder["window_pad"], order="after norm1", masked=False, value=0.0)
    expect(prompts, image_embedding_size=[grid, grid], input_image_size=[side, side])
    expect_prompts(prompts)
    expect_decoder(decoder)
    transformer = decoder["transformer"]
    return build_sam(
        encoder_width=encoder["embed_dim"],
        encoder_depth=encoder["depth"],
        encoder_heads=encoder["num_heads"],
        global_blocks=encoder["global_attn_indexes"],
        image_size=side,
        patch=encoder["patch_size"],
        window=encoder["window_size"],
        mlp_ratio=float(encoder["mlp_ratio"]),
        relative=encoder["use_rel_pos"],
        width=prompts["embed_dim"],
        mask_channels=prompts["mask_in_chans"],
        decoder_layers=transformer["depth"],
        num_heads=transformer["num_heads"],
        feedforward=transformer["mlp_dim"],
        downsample=transformer["attention_downsample_rate"],
        multimask_outputs=decoder["num_multimask_outputs"],
        iou_width=decoder["iou_head_hidden_dim"],
        iou_layers=decoder["iou_head_depth"],
    )


def expect_prompts(config) -> None:
    """Refuse prompt encoders that are none of ours."""
    expect(config, activation="gelu_erf", norm_eps=1e-6, num_point_embeddings=4)
    expect(config, mask_input_size=[4 * side for side in config["image_embedding_size"]])
    expect(config["positional_encoding"], features=config["embed_dim"] // 2, pixel_offset=0.5)


def expect_decoder(config) -> None:
    """Refuse mask decoders that are none of ours."""
    expect(config, iou_head_activation="relu", iou_head_sigmoid=False, mask_mlp_depth=3)
    expect(config, mask_mlp_activation="relu", upscaling_activation="gelu_erf")
    expect(config, upscaling_norm_eps=1e-6)
    expect_transformer(config["transformer"])


def expect_transformer(config) -> None:
    """Refuse two-way transformers that are none of ours."""
    expect(config, activation="relu", norm_eps=1e-5, dropout=0.0)


def build_transformer(config) -> TwoWayTransformer:
    """The two-way transformer of a case's config."""
    expect_transformer(config)
    return TwoWayTransformer(
        config["depth"], config["num_heads"], config["mlp_dim"],
        config["attention_downsample_rate"],
    )  # fmt: skip


def load_part(case, path: str, shapes):
    """Parameters of one part from a case whose keys lack the part's prefix.

    Args:
      path: of the part here, as `mask_decoder/transformer`.
    """
    official = path.replace("image_encoder/vit/block_", "image_encoder.blocks.").replace("/", ".")
    state = {f"{official}.{key}": value for key, value in case.weights().items()}
    target = functools.reduce(
        lambda inside, name: {name: inside}, reversed(path.split("/")), shapes
    )
    return load_state_dict("sam", state, target, part=path)


def traced(module: nn.Module, params, *arguments, method=None):
    """What a method returns, and what each module under it returned: {path: value}."""

    @quick_jit
    def run(params, *arguments):
        return module.apply(
            {"params": params}, *arguments, method=method, capture_intermediates=True
        )

    result, state = run(params, *arguments)
    leaves = jax.tree_util.tree_flatten_with_path(
        state["intermediates"], is_leaf=lambda x: isinstance(x, tuple)
    )[0]
    return result, {"/".join(k.key for k in path[:-1]): value[0] for path, value in leaves}


def model(case, inputs) -> dict:
    """`sam/model`: the encoder once, then prompts by runs."""
    config = case.spec["config"]
    network = build(config)
    params = load_state_dict("sam", case.weights(), network)
    canvas = Canvas(config["image"]["resize"]["long_side"])
    expect(config["image"], mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    encoded = {}

    def encode(name):
        if name not in encoded:
            images = normalize(canvas.place([canvas.resize(load_image(inputs[name]))]))
            encoded[name] = (images, *traced(network, params, images, method="encode"))
        return encoded[name]

    images, embedding, inside = encode("image")
    tensors = {None: {"model_input": nchw(images.pixels)} | name_encoder(inside, embedding, params)}
    position = network.apply({"params": params}, method=lambda m: m.prompt_encoder.position())
    tensors[None]["prompt_encoder.dense_pe"] = nchw(position[None])
    for name, run in case.spec["runs"].items():
        compute = RUNS[run["call"]]
        tensors[name] = compute(network, params, run, inputs, encode, canvas)
    return tensors


def name_encoder(inside: dict, embedding, params) -> dict:
    """Whole tensors of the image encoder."""
    tensors = {}
    for path, value in inside.items():
        parts = path.split("/")
        if parts[:2] == ["image_encoder", "neck"] and len(parts) == 3:
            tensors[f"image_encoder.neck.{NECK.index(parts[2])}"] = nchw(value)
        elif parts[:2] == ["image_encoder", "vit"] and len(parts) > 2:
            name = ".".join(parts[2:]).replace("block_", "blocks.")
            tensors[f"image_encoder.{name}"] = np.asarray(value)
    patches = tensors["image_encoder.patch_embed"]
    positions = np.asarray(params["image_encoder"]["vit"]["position_embed"])
    tensors["image_encoder.blocks.0.input"] = patches + positions
    channels = np.asarray(embedding, np.float64)
    for how in ("mean", "std"):
        tensors[f"image_encoder.neck.3.channel_{how}"] = getattr(channels, how)((0, 1, 2))
    return tensors


def prompts_of(given: dict, inputs: dict) -> Prompts:
    """Prompts of one image; the originals have no axis for images."""

    def array(name, dtype=jnp.float32):
        source = given.get(name)
        return None if source is None else jnp.asarray(inputs[source], dtype)[None]

    masks = array("masks")
    return Prompts(
        array("points"), array("labels", jnp.int32), None, array("boxes"), None,
        None if masks is None else masks[:, :, 0],
    )  # fmt: skip


def predict_masks(network, params, run, inputs, encode, canvas) -> dict:
    """A run of prompts on the first image."""
    embedding = encode(run["inputs"]["image"])[1]
    prompts = prompts_of(run["inputs"], inputs)
    masks, inside = traced(network, params, embedding, prompts, method="decode")
    encoded = inside["prompt_encoder"]
    tensors = name_prompts(encoded, masks.logits.shape[1:2], embedding.shape[1:])
    tensors |= name_decoder(inside, encoded)
    tensors["low_res_logits"] = masks.logits[0]
    tensors["iou_predictions"] = masks.iou[0]
    logits = np.asarray(masks.logits[0], np.float64)
    tensors["low_res_logits.mean_std"] = np.stack([logits.mean((2, 3)), logits.std((2, 3))], -1)
    options = run.get("options", {})
    if "original_size" in options:
        chosen = masks.logits[0][:, np.asarray(options["postprocessed_masks"])]
        tensors |= name_masks(canvas.original(chosen, tuple(options["original_size"])))
    return tensors


def name_masks(logits) -> dict:
    """Logits at the original size, masks, and where each begins (which is judged by length)."""
    logits = np.asarray(logits)
    masks = (logits > 0).reshape(-1, *logits.shape[-2:])
    return {"mask_logits": logits, "masks": masks, "masks.rle_offsets": rle_offsets(masks)}


def rle_offsets(masks) -> np.ndarray:
    """Where each mask's runs begin among all masks' runs, column by column, background first."""
    flat = np.asarray(masks).swapaxes(-1, -2).reshape(len(masks), -1)
    runs = 1 + (flat[:, 1:] != flat[:, :-1]).sum(1) + flat[:, 0]
    return np.concatenate([[0], np.cumsum(runs)])


def name_prompts(encoded: Encoded, sets, grid) -> dict:
    """The prompt encoder's outputs; a map for all sets is repeated."""
    dense = jnp.broadcast_to(encoded.dense[0], (*sets, *grid))
    sparse = jnp.broadcast_to(encoded.sparse[0], (*sets, *encoded.sparse.shape[2:]))
    return {
        "prompt_encoder.sparse_embeddings": np.asarray(sparse),
        "prompt_encoder.dense_embeddings": nchw(dense),
    }


def name_decoder(inside: dict, encoded: Encoded) -> dict:
    """Whole tensors of the mask decoder."""
    prefix, tensors = "mask_decoder.", {}
    for path, value in inside.items():
        if not path.startswith("mask_decoder/") or path.endswith("_proj"):
            continue
        name = path.removeprefix("mask_decoder/").replace("/", ".").replace("layer_", "layers.")
        if isinstance(value, tuple):  # of a layer, or of the whole transformer
            tensors[f"{prefix}{name}.queries"], tensors[f"{prefix}{name}.keys"] = (
                np.asarray(x[0]) for x in value
            )
        elif "hypernetworks" in name and "layers" not in name:
            tensors[prefix + name.replace("mlps_", "mlps.")] = np.asarray(value[0])
        elif name.startswith("transformer."):
            tensors[prefix + name] = np.asarray(value[0])
    conv1, norm, conv2 = (
        inside[f"mask_decoder/output_upscaling/{name}"] for name in ("conv1", "norm", "conv2")
    )
    for i, value in enumerate((conv1, norm, gelu(norm), conv2, gelu(conv2))):
        tensors[f"{prefix}output_upscaling.{i}"] = nchw(in_order(value))
    return tensors


def gelu(x):
    """The exact one."""
    return nn.gelu(x, approximate=False)


def batched(network, params, run, inputs, encode, canvas) -> dict:
    """A run of several images, each with its own prompts."""
    tensors = {}
    multiple = run["options"]["multimask_output"]
    for j, (given, size) in enumerate(
        zip(run["inputs"], run["options"]["original_size"], strict=True)
    ):
        masks, _ = traced(
            network, params, encode(given["image"])[1], prompts_of(given, inputs), method="decode"
        )
        masks = masks.multiple if multiple else masks.single
        at_original = canvas.original(masks.logits[0], tuple(size)) > 0
        tensors |= {
            f"batched.{j}.iou_predictions": masks.iou[0],
            f"batched.{j}.low_res_logits": masks.logits[0],
            f"batched.{j}.mask_area": np.asarray(at_original).sum((-1, -2)),
        }
    return tensors


RUNS = {"predict_masks": predict_masks, "batched": batched}


def prompt_encoder(case, inputs) -> dict:
    """`sam/prompt_encoder`: every kind of prompt."""
    config = case.spec["config"]
    expect_prompts(config)
    grid = config["image_embedding_size"][0]
    expect(config, image_embedding_size=[grid, grid])
    side = config["input_image_size"][0]
    expect(config, input_image_size=[side, side])
    module = PromptEncoder(config["embed_dim"], side, grid, config["mask_in_chans"])
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), Prompts()))["params"]
    params = load_part(case, "prompt_encoder", shapes)
    position = module.apply({"params": params}, method="position")
    tensors = {None: {"dense_pe": nchw(position[None])}}
    for name, run in case.spec["runs"].items():
        prompts = prompts_of(run["inputs"], inputs)
        encoded = quick_jit(module.apply)({"params": params}, prompts)
        named = name_prompts(encoded, (prompts.sets,), position.shape)
        tensors[name] = {k.removeprefix("prompt_encoder."): v for k, v in named.items()}
    return tensors


def two_way_transformer(case, inputs) -> dict:
    """`sam/two_way_transformer`: every part's output."""
    module = build_transformer(case.spec["config"])
    image, position = (
        np.moveaxis(inputs[name], 1, -1).reshape(len(inputs[name]), 1, -1, inputs[name].shape[1])
        for name in ("image_embedding", "image_pe")
    )
    arguments = [jnp.asarray(x) for x in (inputs["point_embedding"][:, None], image, position)]
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))["params"]
    params = load_part(case, "mask_decoder/transformer", shapes)
    (queries, keys), inside = traced(module, params, *arguments)
    tensors = {"queries": queries[:, 0], "keys": keys[:, 0]}
    for path, value in inside.items():
        name = path.replace("/", ".").replace("layer_", "layers.")
        if name.endswith("_proj"):
            continue
        if isinstance(value, tuple) and name:
            tensors[f"{name}.queries"], tensors[f"{name}.keys"] = (x[:, 0] for x in value)
        elif not isinstance(value, tuple):
            tensors[name] = value[:, 0]
    return {None: tensors}


def mask_decoder(case, inputs) -> dict:
    """`sam/mask_decoder`: all masks, and the choices among them."""
    config = case.spec["config"]
    expect_decoder(config)
    module = MaskDecoder(
        build_transformer(config["transformer"]),
        config["num_multimask_outputs"],
        config["iou_head_hidden_dim"],
        config["iou_head_depth"],
    )
    tensors = {}
    for name, run in case.spec["runs"].items():
        given = {role: jnp.asarray(inputs[source]) for role, source in run["inputs"].items()}
        encoded = Encoded(
            given["sparse_prompt_embeddings"][None],
            None,
            jnp.moveaxis(given["dense_prompt_embeddings"], 1, -1)[None],
        )
        position = jnp.moveaxis(given["image_pe"], 1, -1)[0]
        arguments = (jnp.moveaxis(given["image_embeddings"], 1, -1), position, encoded)
        shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), *x), arguments)["params"]
        params = load_part(case, "mask_decoder", shapes)
        masks, inside = traced(module, params, *arguments)
        vectors = [inside[f"output_hypernetworks_mlps_{k}"][0] for k in range(masks.iou.shape[-1])]
        tensors[name] = {
            "output_upscaling": nchw(in_order(inside["output_upscaling"])),
            "hyper_in": np.stack(vectors, 1),
        }
        if run["call"] == "forward":
            masks = masks.multiple if run["options"]["multimask_output"] else masks.single
        tensors[name] |= {"low_res_logits": masks.logits[0], "iou_predictions": masks.iou[0]}
    return tensors


def vit_attention(case, inputs) -> dict:
    """`sam/vit_attention`: attention, tables of positions, windows."""
    config, tensors = case.spec["config"], {}
    side = config["rel_pos_input_size"][0]
    expect(config, qkv_bias=True, rel_pos_input_size=[side, side], rel_pos_query="unscaled")
    module = RelativeAttention(config["num_heads"], side if config["use_rel_pos"] else None)
    x = jnp.zeros((1, side, side, config["dim"]))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))["params"]
    params = load_part(case, "image_encoder/vit/block_0/attn", shapes)
    for name, run in case.spec["runs"].items():
        options = run.get("options", {})
        if run["call"] == "attention":
            x = jnp.asarray(inputs[run["inputs"]["x"]])
            tensors[name] = {"attention": quick_jit(module.apply)({"params": params}, x)}
        elif run["call"] == "get_rel_pos":
            table = jnp.asarray(params[options["rel_pos"]])
            (found,) = relative_positions(table, options["q_size"], options["k_size"])
            tensors[name] = {"rel_pos": found}
        else:
            tensors[name] = _windows(
                jnp.asarray(inputs[run["inputs"]["x"]]), options["window_size"]
            )
    return tensors


def _windows(x, size: int) -> dict:
    windows = to_windows(x, size)
    return {
        "windows": windows.reshape(-1, *windows.shape[2:]),
        "padded_size": pad_to_multiple(x, size).shape[1:3],
        "unpartitioned": from_windows(windows, *x.shape[1:3]),
    }


def predictor(case, inputs) -> dict:
    """`sam/predictor`: an image is set once, then prompts in its own pixels."""
    network = build(case.spec["config"])
    params = load_state_dict("sam", case.weights(), network)
    predict = SamPredictor(network, params)
    predict.set_image(inputs["image"])
    tensors = {}
    for name, run in case.spec["runs"].items():
        given = {
            role: None if source is None else _resolve(source, inputs, tensors)
            for role, source in run["inputs"].items()
            if role != "image"
        }
        options = {k: v for k, v in run.get("options", {}).items() if k == "multimask_output"}
        answer = predict.predict(**given, **options, return_logits=True)
        tensors[name] = name_masks(answer.masks) | {
            "iou_predictions": answer.iou,
            "low_res_logits": answer.low_res,
        }
    return tensors


def _resolve(source, inputs, tensors):
    """An input, or a part of what an earlier run returned."""
    if isinstance(source, str):
        return inputs[source]
    return compare.select({"select": source["select"]}, tensors[source["run"]][source["from"]])


def automatic_masks(case, inputs) -> dict:
    """`sam/automatic_masks`: records in the order returned."""
    config = case.spec["config"]
    expect(config["automatic_masks"], near_edge_tolerance=NEAR, small_region_connectivity=8)
    expect(config["automatic_masks"], stability_threshold=THRESHOLD)
    network = build(config)
    params = load_state_dict("sam", case.weights(), network)
    tensors = {}
    for name, run in case.spec["runs"].items():
        grids = run["inputs"].get("point_grids")
        options = run["options"] | {"point_grids": grids and [inputs[grid] for grid in grids]}
        generator = AutomaticMaskGenerator(network, params, **options)
        records = generator.generate(inputs[run["inputs"]["image"]])
        tensors[name] = name_records(records)
    return tensors


def name_records(records: list[dict]) -> dict:
    """Whole tensors of a list of records."""
    masks = np.stack([_decoded(record["segmentation"]) for record in records])
    named = {
        name: np.asarray([record[name] for record in records])
        for name in ("area", "predicted_iou", "stability_score", "bbox", "crop_box")
    }
    points = np.asarray([record["point_coords"][0] for record in records])
    return named | {
        "masks": masks,
        "masks.rle_offsets": rle_offsets(masks),
        "point_coords": points,
    }


def _decoded(segmentation):
    if isinstance(segmentation, np.ndarray):
        return segmentation
    return decode_segmentation(segmentation, *segmentation["size"])


KINDS = {
    "sam/model": model,
    "sam/predictor": predictor,
    "sam/automatic_masks": automatic_masks,
    "sam/prompt_encoder": prompt_encoder,
    "sam/two_way_transformer": two_way_transformer,
    "sam/mask_decoder": mask_decoder,
    "sam/vit_attention": vit_attention,
}
