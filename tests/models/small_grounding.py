"""A Grounding DINO small enough to train in tests, and its criterion."""

from jaxseg.losses.criterion import FirstStage, SetCriterion, TokenClasses
from jaxseg.models import build
from jaxseg.models.grounding_dino.grounding_dino import GroundingDino

SMALL = {
    "stem": 16, "width": 32, "num_heads": 4, "feedforward": 48, "encoder_layers": 2,
    "decoder_layers": 2, "num_levels": 3, "num_queries": 11, "fusion_width": 32,
    "text_feedforward": 48, "bert_layers": 1, "bert_width": 16, "bert_heads": 2,
    "bert_feedforward": 32,
}  # fmt: skip
CRITERION = SetCriterion(
    classes=TokenClasses(),
    loss_ce=2.0,
    giou_epsilon=1e-6,
    nonfinite_cost=0.0,
    first_stage=FirstStage("interm"),
)


def small(**fields) -> GroundingDino:
    model = build("grounding_dino.tiny", **SMALL | fields)
    return model.clone(backbone=model.backbone.clone(depths=(1, 1, 1, 1)))
