"""transformers' MaskFormer as a second witness: it agrees but for its auxiliary outputs."""

import pytest
import torch

from maskformer.model import zoo
from parity.errors import InputError
from parity.steps import Steps
from parity_tests.weight_conversion.samples import CONFIG as SMALL_SWIN
from replication.forward.run import Request, audit
from replication.sides.weights import load_weights
from weight_conversion import hugging_face_model

DECODER = "sem_seg_head.predictor.transformer.decoder"
SMALL_RESNET = zoo.model_config("tiny").replace(
    pixel_decoder={"name": "BasePixelDecoder", "transformer_enc_layers": 0},
    predictor={"in_feature": "res5", "dec_layers": 3},
)
SMALL = {"swin": SMALL_SWIN, "resnet": SMALL_RESNET}


def audited(config, executions=(), **changes):
    request = Request(
        config=config,
        weights="seeded:3",
        size="64x96",
        reference="hf",
        executions=executions,
        **changes,
    )
    return audit(request, Steps(total=0, quiet=True))


def failed(result):
    return {row.key for row in result.layers if not row.float64.passed}


def check_only_auxiliary_outputs_differ(result, layers):
    """What must be found with `layers` decoder layers: our L - 1 outputs, the library's L."""
    kinds = ("pred_logits", "pred_masks")
    auxiliary = [f"model:output.aux_outputs.{i}.{kind}" for i in range(layers) for kind in kinds]
    assert result.verdict == "different"
    assert failed(result) == set(auxiliary[:-2])
    assert sorted(result.unpaired.reference) == sorted(auxiliary[-2:])
    assert result.unpaired.port == ()
    assert result.first_divergence == f"{DECODER}.norm"
    assert result.localisation.path == f"{DECODER}.norm"
    assert result.localisation.cause == "decoder.norm is not applied to intermediate layers"
    sources = result.witness["sources_of_outputs"]
    last = f"decoder.norm(decoder.layers.{layers - 1}:output)"
    states = ["decoder.layers.0:input.tgt"]
    states += [f"decoder.layers.{i}:output" for i in range(layers - 1)]
    assert sources["reference"] == {
        "final": last,
        **{f"aux_outputs.{i}": state for i, state in enumerate(states)},
    }
    assert sources["port"] == {
        "final": last,
        **{f"aux_outputs.{i}": f"decoder.norm({state})" for i, state in enumerate(states[1:])},
    }
    loss = result.witness["loss"]
    assert loss["final_difference"] < 1e-9
    assert loss["reference"]["auxiliary"] > 1.01 * loss["port"]["auxiliary"]


@pytest.mark.parametrize("name", list(SMALL))
def test_audit_finds_the_library_s_auxiliary_outputs(name):
    config = SMALL[name]
    result = audited(config, executions=("eager",) if name == "swin" else ())
    check_only_auxiliary_outputs_differ(result, config.predictor.dec_layers)
    training = result.witness["training"]
    assert training["default_attention_dropout"] == 0.0
    if name == "resnet":
        assert training["trained_batch_norm_values"] == 53_120
        assert training["batch_statistics_gap"] > 0.01
    else:
        assert training["trained_batch_norm_values"] == 0
        agree = [row for row in result.layers if row.path]
        assert all(row.float32["eager"].passed for row in agree)


def test_audit_of_a_repaired_library_is_equal(monkeypatch):
    """The twin: with the norm on intermediate layers, and without the first, nothing differs."""
    from transformers import MaskFormerForInstanceSegmentation as Library

    get_logits = Library.get_logits

    def repaired(self, outputs):
        norm = self.model.transformer_module.decoder.layernorm
        states = outputs.transformer_decoder_hidden_states
        outputs.transformer_decoder_hidden_states = (
            *(
                torch.nn.functional.layer_norm(
                    state, state.shape[-1:], norm.weight, norm.bias, norm.eps
                )
                for state in states[1:-1]
            ),
            states[-1],
        )
        return get_logits(self, outputs)

    monkeypatch.setattr(Library, "get_logits", repaired)
    result = audited(SMALL_SWIN)
    assert result.verdict == "equal"
    assert failed(result) == set()
    assert result.first_divergence is None
    assert result.localisations == ()
    loss = result.witness["loss"]
    assert loss["total_ratio"] == pytest.approx(1.0, abs=1e-9)


def test_audit_names_a_fault_before_the_heads(another_epsilon):
    """Another twin: a fault of the port is named first, not hidden by the known difference."""
    path = another_epsilon(0, "norm2")
    result = audited(SMALL_SWIN)
    assert result.verdict == "different"
    assert result.first_divergence == path


def test_the_library_s_auxiliary_loss_needs_hidden_states_asked_for():
    weights = load_weights("seeded:3", SMALL_SWIN)
    library = hugging_face_model.build(SMALL_SWIN, weights.state).library
    image = torch.zeros(1, 3, 64, 96)
    with torch.no_grad():
        assert len(library(image, output_hidden_states=True).class_queries_logits) == 1
        with pytest.raises(TypeError):
            library(image)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ade20k_r50", "ade20k_r101", "coco_swin_tiny", "ade20k_swin_base"]
)
def test_audit_finds_the_library_s_auxiliary_outputs_at_full_size(name):
    check_only_auxiliary_outputs_differ(audited(zoo.model_config(name)), 6)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("coco_r50", "the transformer encoder of its pixel decoder"),
        ("ade20k_r101c", "the DeepLab stem"),
        ("ade20k_pp", "head PerPixelBaselineHead"),
    ],
)
def test_what_the_library_cannot_hold_is_named(name, part):
    with pytest.raises(InputError, match=part) as error:
        hugging_face_model.build(zoo.model_config(name), {})
    assert "give --reference builtin instead" in str(error.value)


def test_isolation_needs_the_same_modules():
    with pytest.raises(InputError, match="--isolate needs a reference"):
        audited(SMALL_SWIN, isolate=True)
