"""Which part of the Model Garden's DETR is which of the reference, and where tensors differ."""

import numpy as np

from examples.detr.models import HEADS, LAYERS, QUERIES, Differences
from parity.names import Names, View
from parity.weights import Layout, Weights, merged_heads, split_heads

LAST = LAYERS - 1
BACKBONE = "model.backbone.model"
NO_OBJECT_FIRST = Layout(  # the reference has it last
    lambda array: np.roll(array, 1, 0).T, lambda array: np.roll(array.T, -1, 0)
)
SCORES = View("NSC", lambda port: np.roll(port, -1, -1), lambda theirs: np.roll(theirs, 1, -1))
HEADS_SPLIT = View(
    "NSC",
    lambda port: port.reshape(*port.shape[:2], -1),
    lambda theirs: theirs.reshape(*theirs.shape[:2], HEADS, -1),
)
SEEN_BY_ALL = View(  # one row for each token that looks, all alike
    "NX",
    lambda port: port[:, 0] != 0,
    lambda theirs: np.repeat(theirs[:, None], theirs.shape[1], 1),
)
SEEN_BY_QUERIES = View(
    "NX",
    lambda port: port[:, 0] != 0,
    lambda theirs: np.repeat(theirs[:, None], QUERIES, 1),
)
SEEN_BY_HEADS = View("NCHW", lambda port: port[:, None] != 0, lambda theirs: theirs[:, 0])


def _modules() -> dict[str, str]:
    modules = {
        "_backbone.conv2d": f"{BACKBONE}.embedder.embedder.convolution",
        "_backbone.batch_normalization": f"{BACKBONE}.embedder.embedder.normalization",
        "_backbone.max_pooling2d": f"{BACKBONE}.embedder.pooler",
        "_input_proj": "model.input_projection",
        "_class_embed": "class_labels_classifier",
        "_bbox_embed.*": "bbox_predictor.layers.*",
        "_transformer._encoder": "model.encoder",
        "_transformer._decoder": "model.decoder",
        "_transformer._decoder.output_normalization": "model.decoder.layernorm",
    }
    for stage in range(4):
        ours = f"_backbone.residual_block{f'_{stage}' if stage else ''}"
        theirs = f"{BACKBONE}.encoder.stages.{stage}.layers.0"
        modules |= {
            ours: theirs,
            f"{ours}._shortcut": f"{theirs}.shortcut.convolution",
            f"{ours}._norm0": f"{theirs}.shortcut.normalization",
        }
        for index in (1, 2):
            modules[f"{ours}._conv{index}"] = f"{theirs}.layer.{index - 1}.convolution"
            modules[f"{ours}._norm{index}"] = f"{theirs}.layer.{index - 1}.normalization"
    modules |= _layers(
        "_transformer._encoder.encoder_layers.*",
        "model.encoder.layers.*",
        {"_attention_layer": "self_attn"},
        {
            "_attention_layer_norm": "self_attn_layer_norm",
            "_intermediate_dense": "mlp.fc1",
            "_intermediate_activation_layer": "mlp.activation_fn",
            "_output_dense": "mlp.fc2",
            "_output_layer_norm": "final_layer_norm",
        },
    )
    return modules | _layers(
        "_transformer._decoder.decoder_layers.*",
        "model.decoder.layers.*",
        {"self_attention": "self_attn", "encdec_attention": "encoder_attn"},
        {
            "self_attention_layer_norm": "self_attn_layer_norm",
            "encdec_attention_layer_norm": "encoder_attn_layer_norm",
            "intermediate_dense": "mlp.fc1",
            "intermediate_activation_layer": "mlp.activation_fn",
            "output_dense": "mlp.fc2",
            "output_layer_norm": "final_layer_norm",
        },
    )


def _layers(
    ours: str, theirs: str, attentions: dict[str, str], parts: dict[str, str]
) -> dict[str, str]:
    projections = {
        "_query_dense": "q",
        "_key_dense": "k",
        "_value_dense": "v",
        "_output_dense": "o",
    }
    modules = {ours: theirs} | {f"{ours}.{a}": f"{theirs}.{b}" for a, b in parts.items()}
    for attention, counterpart in attentions.items():
        for name, letter in projections.items():
            modules[f"{ours}.{attention}.{name}"] = f"{theirs}.{counterpart}.{letter}_proj"
    return modules


NAMES = Names(
    modules=_modules(),
    tensors={
        "model:input": "pixel_values",
        f"model:output.{LAST}.cls_outputs": "logits",
        f"model:output.{LAST}.box_outputs": "pred_boxes",
        "model.encoder:input.encoder_inputs": "inputs_embeds",
        "model.encoder:input.pos_embed": "spatial_position_embeddings",
        "model.encoder.layers.*:input.0": "hidden_states",
        "model.encoder.layers.*:input.1": "attention_mask",
        "model.encoder.layers.*:input.2": "spatial_position_embeddings",
        "model.decoder:input.target": "inputs_embeds",
        "model.decoder:input.memory": "encoder_hidden_states",
        "model.decoder:input.cross_attention_mask": "encoder_attention_mask",
        "model.decoder:input.input_pos_embed": "object_queries_position_embeddings",
        "model.decoder:input.memory_pos_embed": "spatial_position_embeddings",
        f"model.decoder:output.{LAST}": "last_hidden_state",
        "model.decoder.layers.*:input.inputs.0": "hidden_states",
        "model.decoder.layers.*:input.inputs.1": "encoder_hidden_states",
        "model.decoder.layers.*:input.inputs.2": "encoder_attention_mask",
        "model.decoder.layers.*:input.inputs.4": "object_queries_position_embeddings",
        "model.decoder.layers.*:input.inputs.5": "spatial_position_embeddings",
    },
    # The Model Garden applies norm and heads after every layer, the reference after the last.
    calls={
        "model.decoder.layernorm": {LAST: 0},
        "class_labels_classifier": {LAST: 0},
        **{f"bbox_predictor.layers.{index}": {LAST: 0} for index in range(3)},
    },
    views={
        "*.[qkv]_proj:output": HEADS_SPLIT,
        "*.o_proj:input": HEADS_SPLIT,
        "class_labels_classifier:output": SCORES,
        "model:output.logits": SCORES,
        "model.encoder.layers.*:input.attention_mask": SEEN_BY_HEADS,
        "model.decoder.layers.*:input.encoder_attention_mask": SEEN_BY_HEADS,
        "model.encoder:input.attention_mask": SEEN_BY_ALL,
        "model.decoder:input.encoder_attention_mask": SEEN_BY_QUERIES,
    },
    reference_only={
        "model:input.pixel_mask": "the port takes pixels whose channels sum to 0 as padding",
        "model:output.*last_hidden_state": "the port does not return it",
        "bbox_predictor.layers.[01]:output": "the port's layer has its ReLU inside",
    },
    port_only={
        "model:output.*": "outputs of earlier layers, and boxes made of outputs",
        "bbox_predictor.layers.[01]:output": "the port's layer has its ReLU inside",
        "model.decoder:input.self_attention_mask": "all ones, where the reference has none",
        "model.decoder:output.*": "what earlier layers return",
        "model.decoder.layers.*:input.inputs.3": "all ones, where the reference has none",
    },
)


def weights(differences: Differences) -> Weights:
    """What of the weights does not follow from the pairs of layers."""
    layouts = {
        "class_labels_classifier.weight": NO_OBJECT_FIRST,
        "class_labels_classifier.bias": NO_OBJECT_FIRST,
    }
    reference_only = {}
    for path in (
        "encoder.layers.*.self_attn",
        "decoder.layers.*.self_attn",
        "decoder.layers.*.encoder_attn",
    ):
        for letter in "qkvo":
            key = f"model.{path}.{letter}_proj"
            layouts[f"{key}.weight"] = merged_heads(HEADS) if letter == "o" else split_heads(HEADS)
            if letter != "o":
                layouts[f"{key}.bias"] = split_heads(HEADS)
            if differences.no_attention_bias:
                reference_only[f"{key}.bias"] = "the port's projections have none"
    port_only = {}
    if differences.encoder_norm:
        norm = "_transformer._encoder.output_normalization"
        port_only = dict.fromkeys(
            (f"{norm}.gamma", f"{norm}.beta"), "the reference has no norm here"
        )
    return Weights(
        {"_query_embeddings": "model.query_position_embeddings.weight"},
        layouts,
        reference_only,
        port_only,
    )


def stage(path: str) -> str:
    """The part of DETR that a module of the reference belongs to."""
    if path.startswith("model.backbone"):
        return "backbone"
    return "transformer" if path.startswith("model.") else "heads"
