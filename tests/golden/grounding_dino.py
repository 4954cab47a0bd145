"""Kinds `grounding_dino/*` but its captions, which `text` has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.backbones.swin import Swin
from jaxseg.losses.criterion import FirstStage, SetCriterion, TokenClasses
from jaxseg.models.detr.deformable_decoder import DeformableDecoderLayer
from jaxseg.models.detr.levels import cell_centres
from jaxseg.models.grounding_dino import GroundingDino, class_detections, class_scores
from jaxseg.models.grounding_dino.builders import grounding_dino
from jaxseg.models.grounding_dino.decoder import GroundedDecoderLayer
from jaxseg.models.grounding_dino.enhancer import FeatureEnhancer, Text
from jaxseg.models.grounding_dino.fusion import LIMIT, SCALE, Fusion
from jaxseg.nn.position import box_sine_embedding, sine_embedding
from jaxseg.structures import ABSENT, Captions, DetectorOutput, Features, Predictions, Targets
from jaxseg_convert_torch import load_state_dict, to_state_dict
from tests.golden.common import by_name, case_images, compute, expect, nchw
from tests.golden.text import named_classes, tokenizer_of
from tests.quick import quick_jit

TABLE = "grounding_dino"
# Targets have this many slots more than the case's images need.
SPARE = 2


def model(case, inputs) -> dict:
    """`grounding_dino/model`: every stage's output in evaluation."""
    detector = build(case.spec["config"])
    params = load_state_dict(TABLE, case.weights(), detector)
    images, captions = case_images(case.spec, inputs), case_captions(inputs)
    bert = detector.bert.bind({"params": params["bert"]})
    mask, places = captions.attend, captions.positions
    if detector.text_level == "word":
        mask, places = captions.mask, None
    tensors = {"bert.last_hidden": bert(captions.ids, mask, places).last}
    apply = quick_jit(detector.apply)
    index = forced_index(case)
    if detector.selection == "language":
        free = apply({"params": params}, images, captions)
        tensors |= name_ranking(free.extras["proposals"])
    output = apply({"params": params}, images, captions, proposal_index=index)
    return {None: describe(output, captions, case.spec["config"]["class_head"]["width"]) | tensors}


def case_captions(inputs) -> Captions:
    """Token ids and their masks as the case gives them."""
    if np.any(inputs.get("token_type_ids", 0)):
        raise ValueError("token types other than 0 are no caption's")
    return Captions(
        ids=jnp.asarray(inputs["input_ids"], jnp.int32),
        mask=jnp.asarray(inputs["attention_mask"], bool),
        attend=jnp.asarray(inputs["text_self_attention_masks"], bool),
        positions=jnp.asarray(inputs["position_ids"], jnp.int32),
    )


def forced_index(case) -> jax.Array | None:
    """The order of proposals that a case goes on with."""
    force = case.spec.get("force", {})
    if unknown := set(force) - {"topk_index"}:
        raise ValueError(f"cannot force {sorted(unknown)}")
    return jnp.asarray(case.tensors[force["topk_index"]["in"]], jnp.int32) if force else None


def name_ranking(proposals) -> dict:
    """The model's own choice of proposals."""
    return by_name(
        proposal_score=proposals.score,
        topk_index=proposals.index,
        topk_score=proposals.chosen(proposals.score[..., None])[..., 0],
    )


def describe(output: DetectorOutput, captions: Captions, width: int) -> dict:
    """All whole tensors of `grounding_dino/model` but the ranking."""
    extras = output.extras
    logits = official_logits(output.logits, captions.mask, width)
    tensors = by_name(
        text__features=extras["text"].features,
        memory=output.memory,
        memory_text=extras["memory_text"],
        references=extras["references"],
        hs=output.states,
        pred_logits=logits[-1],
        pred_boxes=output.boxes[-1],
        aux__pred_logits=logits[:-1],
        aux__pred_boxes=output.boxes[:-1],
    )
    if "first_stage" in extras:
        tensors["interm.pred_boxes"] = extras["first_stage"].boxes
    maps = output.features.maps
    stages = range(4 - len(maps), 4)
    return tensors | {f"backbone.features.{i}": nchw(x) for i, x in zip(stages, maps, strict=True)}


def official_logits(logits, mask, width: int) -> np.ndarray:
    """Minus infinity on padding, up to the original's width."""
    filled = np.where(np.asarray(mask)[:, None], logits, -np.inf)
    missing = width - filled.shape[-1]
    spare = [(0, 0)] * (filled.ndim - 1) + [(0, missing)]
    return np.pad(filled, spare, constant_values=-np.inf)


def build(config) -> GroundingDino:
    """The Grounding DINO of a case's config."""
    expect(config, train=False, prefix="", query_dim=4, num_patterns=0, pre_norm=False)
    expect(config, two_stage_type="standard", two_stage_bbox_embed_share=False)
    expect(config, two_stage_class_embed_share=False, dec_pred_bbox_embed_share=True)
    expect(config, embed_init_tgt=True, text_encoder_type="bert-base-uncased")
    expect(config, use_text_enhancer=True, activation="relu", layer_norm_eps=1e-5)
    expect(config, input_proj_norm="group_norm", group_norm_groups=32, group_norm_eps=1e-5)
    expect(config, input_proj_bias=True, extra_level_from="last_backbone_output")
    expect(config, mask_resize="nearest_floor", mask_resize_from="batch mask", level_embed=True)
    expect(config, extra_level_conv={"kernel": 3, "stride": 2, "padding": 1}, feat_map_bias=True)
    expect(config, text_mask="per_sample", encoder_module_seq=["fusion", "text", "image"])
    expect(config, proposal_size=0.05, proposal_size_growth=2.0, proposal_min=0.01)
    expect(config, proposal_max=0.99, proposal_bounds_open=True, proposal_unusable_logit="inf")
    expect(config, proposal_unusable_memory=0.0, proposal_unusable_compete=True)
    expect(config, proposal_score="max over text tokens", bbox_mlp_layers=3)
    expect(config, decoder_final_norm=True, iter_update=True, box_reference_offset_scale=0.5)
    expect(config, refine_reads="state before decoder norm")
    expect(config, box_head_reads="state after decoder norm")
    expect(config, enc_n_points=config["dec_n_points"])
    seen = ["sa", "ca_text", "ca", "ffn"]
    expect(config, decoder_module_seq=seen)
    expect(config["class_head"], type="dot_product", text="memory_text", scale=1.0, bias=False)
    expect(config["class_head"], padding_value="-inf")
    expect_sampling(config["deformable_attention"])
    expect_query_position(config["query_position_embedding"], config["hidden_dim"])
    expect(config["query_position_embedding"], mlp_layers=2)
    width, bert = config["hidden_dim"], config["bert"]
    expect_fusion(config["fusion_layer"], width)
    expect_text_layer(config["text_layer"], width)
    expect(bert, hidden_act="gelu", activation="gelu_erf", layer_norm_eps=1e-12)
    expect(bert, max_position_embeddings=512, type_vocab_size=2, pad_token_id=0)
    expect(bert, position_embedding_type="absolute")
    detector = grounding_dino(
        num_levels=config["num_feature_levels"],
        width=width,
        num_heads=config["nheads"],
        num_points=config["dec_n_points"],
        feedforward=config["dim_feedforward"],
        encoder_layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        dropout=float(config["dropout"]),
        fusion=config["use_fusion_layer"],
        fusion_heads=config["fusion_layer"]["num_heads"],
        fusion_width=config["fusion_layer"]["embed_dim"],
        text_heads=config["text_layer"]["num_heads"],
        text_feedforward=config["text_layer"]["dim_feedforward"],
        text_attention=config["use_text_cross_attention"],
        bert_layers=bert["num_hidden_layers"],
        bert_width=bert["hidden_size"],
        bert_heads=bert["num_attention_heads"],
        bert_feedforward=bert["intermediate_size"],
        bert_pooler=bert["add_pooling_layer"],
        vocabulary=bert["vocab_size"],
        text_level="sub_sentence" if config["sub_sentence_present"] else "word",
        epsilon=config["inverse_sigmoid_eps"],
        num_queries=config["num_queries"],
    )
    position, sines = config["position_embedding"], detector.position
    expect(position, type="sine", num_feats=width // 2, normalize=True, offset=0.0)
    expect(position, order=["y", "x"], eps=sines.epsilon, scale=sines.scale)
    temperature = (position["temperature_h"], position["temperature_w"])
    return detector.clone(
        position=sines.clone(temperature=temperature), backbone=build_backbone(config["backbone"])
    )


def build_backbone(sizes):
    """The Swin of a case's config."""
    expect(sizes, type="swin", patch_size=4, in_channels=3, qkv_bias=True, qk_scale=None)
    expect(sizes, patch_norm=True, ape=False, dilation=False, drop_rate=0.0, attn_drop_rate=0.0)
    expect(sizes, activation="gelu_erf", layer_norm_eps=1e-5, shift_mask_value=-100.0)
    expect(sizes, shift_when_map_fits_window=True, pad_after_norm1=True, mask_padded_tokens=False)
    expect(sizes, out_norms=True, shift_size=sizes["window_size"] // 2)
    return Swin(
        width=sizes["embed_dim"],
        depths=tuple(sizes["depths"]),
        num_heads=tuple(sizes["num_heads"]),
        window=sizes["window_size"],
        mlp_ratio=sizes["mlp_ratio"],
        stages=tuple(sizes["out_stages"]),
        drop_path=sizes["drop_path_rate"],
    )


def expect_sampling(config) -> None:
    """Refuse another deformable attention than ours."""
    expect(config, align_corners=False, padding="zeros")
    expect(config, pixel_coordinate="location * size - 0.5")


def expect_query_position(config, width: int) -> None:
    """Refuse sines of references other than ours."""
    expect(config, num_feats=width // 2, temperature=10000.0, scale=2 * np.pi)
    expect(config, order=["y", "x", "w", "h"], level_of_valid_ratio=0)


def expect_fusion(config, width: int) -> None:
    """Refuse fusions that are none of ours."""
    expect(config, v_dim=width, l_dim=width, dropout=0.0, layer_norm_eps=1e-5)
    expect(config, residual_from="normed_input", layer_scale=True, layer_scale_init=SCALE)
    expect(config, subtract_global_max=True, subtract_row_max_text_side=True)
    expect(config, clamp_min=-LIMIT, clamp_max=LIMIT)
    expect(config, attention_scale=(config["embed_dim"] // config["num_heads"]) ** -0.5)


def expect_text_layer(config, width: int) -> None:
    """Refuse layers among words that are none of ours."""
    expect(config, activation="relu", dropout=0.0, layer_norm_eps=1e-5, pre_norm=False)
    position = config["position_embedding"]
    expect(position, num_feats=width, temperature=10000.0, scale=2 * np.pi, normalize=False)
    expect(position, added_to=["query", "key"])


def load_part(case, path: str, shapes):
    """Parameters of one part, of which the case's keys lack the prefix.

    Args:
      path: of the part here, as `encoder/fusion_0`; "encoder" alone is all that lies in it.
    """
    prefix = case.spec["config"]["prefix"]
    state = {prefix + key: value for key, value in case.weights().items()}
    target = functools.reduce(
        lambda inside, name: {name: inside}, reversed(path.split("/")), shapes
    )
    return load_state_dict(TABLE, state, target, part=path)


def name_gradients(case, path: str, gradient) -> dict:
    """`grad/KEY` of a part's parameters under the names that the case has."""
    prefix = case.spec["config"]["prefix"]
    tree = functools.reduce(
        lambda inside, name: {name: inside}, reversed(path.split("/")), gradient
    )
    official = to_state_dict(TABLE, tree)
    return {f"grad/{key.removeprefix(prefix)}": value for key, value in official.items()}


def fusion_layer(case, inputs) -> dict:
    """`grounding_dino/fusion_layer`: both sides, what is added to them, and gradients."""
    config = case.spec["config"]
    expect(config, train=False, mask_true_on="padding")
    expect_fusion(config, config["v_dim"])
    path = "encoder/fusion_" + config["prefix"].rstrip(".").rsplit(".", 1)[1]
    module = Fusion(config["num_heads"], config["embed_dim"], config["drop_path"])
    tensors = {}
    for name, run in case.spec["runs"].items():
        expect(run, call="block")
        v, l, mask_v, mask_l = (_given(run, inputs, x) for x in ("v", "l", "mask_v", "mask_l"))
        masks = (_real(mask_v, v), _real(mask_l, l))
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), v, l, *masks))["params"]  # noqa: B023
        params = load_part(case, path, shapes)
        official = to_state_dict(TABLE, {"encoder": {path.split("/")[1]: params}})
        for key, factor in run["options"].get("scale_weights", {}).items():
            official[config["prefix"] + key] = official[config["prefix"] + key] * factor
        params = load_state_dict(
            TABLE, official, {"encoder": {path.split("/")[1]: shapes}}, part=path
        )
        tensors[name] = _fusion_run(case, module, params, (v, l), masks, path, run, inputs)
    return tensors


def _fusion_run(case, module, params, sides, masks, path, run, inputs) -> dict:
    def named(module, method):
        return method == "__call__" and module.name == "attn"

    def forward(given):
        params, *sides = given
        return module.apply({"params": params}, *sides, *masks, capture_intermediates=named)

    pulled = [jnp.asarray(inputs[run["cotangents"][x]]) for x in ("v", "l") if "cotangents" in run]

    def scalar(found):
        return sum((x * y).sum() for x, y in zip(found[0], pulled, strict=True))

    found, gradient = compute(forward, (params, *sides), scalar if pulled else None)
    (image, text), state = found
    ((seen, said),) = state["intermediates"]["attn"]["__call__"]
    tensors = {"v": image, "l": text, "delta_v": seen, "delta_l": said}
    if gradient is None:
        return tensors
    of_params, of_image, of_text = gradient
    tensors |= {"grad/v": of_image, "grad/l": of_text}
    return tensors | name_gradients(case, path, of_params)


def _given(run, inputs, role):
    source = run["inputs"][role]
    return None if source is None else jnp.asarray(inputs[source])


def _real(mask, x):
    """Theirs is True on padding; none is all real."""
    return jnp.ones(x.shape[:2], bool) if mask is None else ~jnp.asarray(mask, bool)


def enhancer_layer(case, inputs) -> dict:
    """`grounding_dino/enhancer_layer`: image and words after some layers."""
    config = case.spec["config"]
    sampling, fusion = config["deformable_attention"], config["fusion_layer"]
    expect(config, train=False, module_seq=["fusion", "text", "image"], activation="relu")
    expect(config, dropout=0.0, layer_norm_eps=1e-5, pre_norm=False, text_mask="per_sample")
    expect(config, mask_true_on="padding", text_self_attention_mask_true_on="may_attend")
    expect_sampling(sampling)
    expect_fusion(fusion, config["d_model"])
    expect_text_layer(config["text_layer"], config["d_model"])
    module = FeatureEnhancer(
        config["num_layers"],
        fusion_heads=fusion["num_heads"],
        fusion_width=fusion["embed_dim"],
        text_heads=config["text_layer"]["num_heads"],
        text_feedforward=config["text_layer"]["dim_feedforward"],
        num_heads=sampling["num_heads"],
        num_points=sampling["num_points"],
        feedforward=config["d_ffn"],
    )
    shapes = tuple((h, w) for h, w in sampling["spatial_shapes"])
    given = {name: jnp.asarray(value) for name, value in inputs.items()}
    reference = cell_centres(given["valid_ratios"], shapes)
    text = Text(
        given["text"],
        ~given["text_padding"].astype(bool),
        given["text_self_attention_masks"].astype(bool),
        given["position_ids"].astype(jnp.int32),
    )

    def forward(init_or_apply, first):
        mask = ~given["mask"].astype(bool)
        tokens = (given["src"], given["pos"], reference)
        return init_or_apply(first, *tokens, shapes, mask, text)

    sizes = jax.eval_shape(lambda: forward(module.init, jax.random.key(0)))["params"]
    params = load_part(case, "encoder", sizes)
    memory, words = quick_jit(lambda params: forward(module.apply, {"params": params}))(params)
    position = sine_embedding(2 * jnp.pi * text.positions, config["d_model"])
    return {
        None: by_name(
            memory=memory, memory_text=words, text_position=position, reference_points=reference
        )
    }


def decoder_layer(case, inputs) -> dict:
    """`grounding_dino/decoder_layer`: each attention's result, and gradients."""
    config = case.spec["config"]
    sampling = config["deformable_attention"]
    expect(config, train=False, activation="relu", dropout=0.0, layer_norm_eps=1e-5)
    expect(config, pre_norm=False, self_attention_mask=None, mask_true_on="padding")
    expect(config, box_reference_offset_scale=0.5, text_heads=config["n_heads"])
    expect_sampling(sampling)
    expect(sampling, num_heads=config["n_heads"])
    expect_query_position(config["query_position_embedding"], config["d_model"])
    reads = config["use_text_cross_attention"]
    expect(config, module_seq=["sa", "ca_text", "ca", "ffn"] if reads else ["sa", "ca", "ffn"])
    kind = GroundedDecoderLayer if reads else DeformableDecoderLayer
    module = kind(
        num_heads=config["n_heads"],
        num_points=sampling["num_points"],
        feedforward=config["d_ffn"],
        dropout=0.0,
    )
    path = "decoder/layer_" + config["prefix"].rstrip(".").rsplit(".", 1)[1]
    given = {name: jnp.asarray(value) for name, value in inputs.items()}
    shapes = tuple((h, w) for h, w in sampling["spatial_shapes"])
    ratios = jnp.tile(given["valid_ratios"], 2)
    placed = given["reference"][:, :, None] * ratios[:, None]
    mask, words = ~given["mask"].astype(bool), ~given["text_padding"].astype(bool)

    def call(init_or_apply, first, tgt, memory, text, **options):
        return init_or_apply(
            first, tgt, given["query_pos"], placed, memory, shapes, mask, None, False, text, words,
            **options,
        )  # fmt: skip

    sides = tuple(given[name] for name in ("tgt", "memory", "text"))
    sizes = jax.eval_shape(lambda: call(module.init, jax.random.key(0), *sides))["params"]
    params = load_part(case, path, sizes)
    norms = ("norm2", "catext_norm")

    def named(module, method):
        return method == "__call__" and module.name in norms

    def forward(given):
        params, *sides = given
        return call(module.apply, {"params": params}, *sides, capture_intermediates=named)

    pulled = given[config["cotangents"]["out"]]
    found, gradient = compute(forward, (params, *sides), lambda found: (found[0] * pulled).sum())
    out, state = found
    after = {name: value["__call__"][0] for name, value in state["intermediates"].items()}
    sines = box_sine_embedding(placed[:, :, 0], config["d_model"] // 2, y_first=True)
    tensors = by_name(query_sine_embed=sines, after_self_attention=after["norm2"], out=out)
    if reads:
        tensors["after_text_attention"] = after["catext_norm"]
    of_params, *of_sides = gradient
    names = ("tgt", "memory", "text")
    tensors |= {f"grad/{name}": x for name, x in zip(names, of_sides, strict=True)}
    return {None: tensors | name_gradients(case, path, of_params)}


def criterion(case, inputs) -> dict:
    """`grounding_dino/criterion`: matchings, terms, total and gradients."""
    config = case.spec["config"]
    objective = build_criterion(config)
    real = jnp.asarray(inputs["text_mask"], bool)
    names = [n for n in inputs if n.endswith(("pred_logits", "pred_boxes"))]
    given = {name: jnp.asarray(inputs[name]) for name in names}
    given |= {  # as our model gives them
        name: jnp.where(real[:, None], x, ABSENT) for name, x in given.items() if "logits" in name
    }
    targets = token_targets(inputs)

    def losses(given):
        return objective(stack(given), targets)

    result, gradient = compute(losses, given, lambda result: result.total)
    tensors = {f"loss/{name}": value for name, value in result.terms.items()}
    tensors |= {"total": result.total} | _matches(objective, stack(given), targets)
    return {None: tensors | {f"grad/{name}": value for name, value in gradient.items()}}


def build_criterion(config) -> SetCriterion:
    """The criterion of a case."""
    expect(config, cost_class_log_eps=1e-8, cost_class_gamma=2.0, world_size=1)
    expect(config, cost_class_row="map row / its sum", loss_class_target="map row")
    expect(config, num_boxes_min=1.0, text_mask_true_on="token")
    expect(config, class_loss_divided_by="matched pairs on this process, at least 1")
    weights = config["weight_dict"]
    suffixes = ["", *(f"_{i}" for i in range(config["dec_layers"] - 1)), "_interm"]
    kinds = ("loss_ce", "loss_bbox", "loss_giou")
    wanted = {f"{kind}{suffix}": weights[kind] for kind in kinds for suffix in suffixes}
    factor = weights.get("loss_ce_interm", 0.0) / weights["loss_ce"]
    wanted |= {f"{kind}_interm": factor * weights[kind] for kind in kinds}
    if weights != wanted:
        raise ValueError(f"weights differ between layers: {weights}")
    return SetCriterion(
        classes=TokenClasses(float(config["focal_alpha"]), float(config["focal_gamma"])),
        cost_class=float(config["set_cost_class"]),
        cost_bbox=float(config["set_cost_bbox"]),
        cost_giou=float(config["set_cost_giou"]),
        giou_epsilon=float(config["giou_eps"]),
        nonfinite_cost=float(config["cost_not_finite"]),
        first_stage=FirstStage("interm", weight=float(factor)),
        **{kind: float(weights[kind]) for kind in kinds},
    )


def token_targets(inputs) -> Targets:
    """The targets of every image in more slots than any needs."""
    count = sum(name.startswith("positive_maps/") for name in inputs)
    images = []
    for i in range(count):
        labels = inputs[f"targets/{i}/labels"]
        rows = inputs[f"positive_maps/{i}"][labels]
        images.append((labels, inputs[f"targets/{i}/boxes"], rows))
    slots = max(len(labels) for labels, _, _ in images) + SPARE
    width = images[0][2].shape[1]
    labels = np.zeros((count, slots), np.int32)
    boxes = np.zeros((count, slots, 4), np.float32)
    mask, tokens = np.zeros((count, slots), bool), np.zeros((count, slots, width), bool)
    for i, (of, at, said) in enumerate(images):
        n = len(of)
        labels[i, :n], boxes[i, :n], mask[i, :n], tokens[i, :n] = of, at, True, said
    return jax.tree.map(jnp.asarray, Targets(labels, boxes, mask, tokens=tokens))


def stack(given: dict) -> DetectorOutput:
    """Predictions of all layers, the last one last; what the criterion does not read is empty."""

    def stacked(name):
        last = given[f"pred_{name}"][None]
        aux = given.get(f"aux.pred_{name}")
        return last if aux is None else jnp.concatenate([aux, last])

    logits = stacked("logits")
    empty = jnp.zeros((logits.shape[1], 0, 0))
    extras = {}
    if "interm.pred_logits" in given:
        found = Predictions(given["interm.pred_logits"], given["interm.pred_boxes"])
        extras = {"first_stage": found}
    return DetectorOutput(
        logits=logits,
        boxes=stacked("boxes"),
        states=jnp.zeros((*logits.shape[:3], 0)),
        memory=empty,
        features=Features((), ()),
        position=empty,
        extras=extras,
    )


def _matches(objective, output, targets) -> dict:
    """(image, query, target) of every layer's pairs."""
    matching = quick_jit(objective.match)(output.logits, output.boxes, targets)
    layers = [f"aux.{i}" for i in range(len(output.logits) - 1)] + ["main"]
    named = {
        f"match/{name}": _pairs(matching.query[i], matching.mask[i])
        for i, name in enumerate(layers)
    }
    if "first_stage" in output.extras:
        found = quick_jit(objective.match_first_stage)(output.extras["first_stage"], targets)
        named["match/interm"] = _pairs(found.query, found.mask)
    return named


def _pairs(query, mask) -> np.ndarray:
    image, target = np.nonzero(np.asarray(mask))
    return np.stack([image, np.asarray(query)[image, target], target], -1)


def postprocess(case, inputs) -> dict:
    """`grounding_dino/postprocess`: token probabilities to categories."""
    config = case.spec["config"]
    expect(config, lowercase_names=True, target_sizes="(height, width)", positive_map_eps=1e-6)
    expect(config, score="sum over tokens of sigmoid(logits) * positive_map")
    rows = config["positive_map_rows"]
    expect(config, flatten=f"query * {rows} + category_id")
    tokenizer = tokenizer_of(config["tokenizer"])
    tensors = {}
    for name, run in case.spec["runs"].items():
        expect(run["options"], box_format="xyxy", scale_to_pixels=True, clip_boxes=False)
        expect(run["options"], nms_iou_threshold=-1.0, score_threshold=None)
        given = {role: inputs[source] for role, source in run["inputs"].items()}
        named = named_classes(
            config,
            tokenizer,
            [category["name"] for category in given["categories"]],
            config["class_separator"],
            config["caption_end"],
        )
        shares = np.zeros((rows, named["positive_map"].shape[1]), np.float32)
        shares[[category["id"] for category in given["categories"]]] = named["positive_map"]
        tensors[name] = {"caption": named["caption"], "positive_map": shares}
        tensors[name] |= _postprocess_run(run["options"]["num_select"], given, shares)
    return tensors


def _postprocess_run(count, given, shares) -> dict:
    output = stack({name: jnp.asarray(given[name]) for name in ("pred_logits", "pred_boxes")})
    sizes, shares = jnp.asarray(given["target_sizes"]), jnp.asarray(shares)
    found = class_detections(output, shares, sizes, count)
    scores = np.asarray(class_scores(output.logits[-1], shares)).reshape(len(sizes), -1)
    return {
        "scores": found.scores,
        "indices": jax.lax.top_k(scores, count)[1],
        "labels": found.labels,
        "boxes": found.boxes,
    }


KINDS = {
    "grounding_dino/model": model,
    "grounding_dino/fusion_layer": fusion_layer,
    "grounding_dino/enhancer_layer": enhancer_layer,
    "grounding_dino/decoder_layer": decoder_layer,
    "grounding_dino/criterion": criterion,
    "grounding_dino/postprocess": postprocess,
}
