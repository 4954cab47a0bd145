"""Predictors: weights and images in, named objects out."""

from jaxseg.predict.clip_encoder import ClipEncoder
from jaxseg.predict.clip_image import clip_pixels
from jaxseg.predict.detector import Detector
from jaxseg.predict.draw import draw
from jaxseg.predict.draw_masks import draw_masks
from jaxseg.predict.draw_scene import draw_scene
from jaxseg.predict.grounded import GroundedDetector
from jaxseg.predict.grounded_result import GroundedPrediction
from jaxseg.predict.grounded_segmenter import GroundedSegmenter
from jaxseg.predict.mask_generator import AutomaticMaskGenerator
from jaxseg.predict.panoptic import Scene
from jaxseg.predict.prompts import Prompt
from jaxseg.predict.result import Prediction
from jaxseg.predict.sam_predictor import SamPredictor

__all__ = [
    "AutomaticMaskGenerator",
    "ClipEncoder",
    "Detector",
    "GroundedDetector",
    "GroundedPrediction",
    "GroundedSegmenter",
    "Prediction",
    "Prompt",
    "SamPredictor",
    "Scene",
    "clip_pixels",
    "draw",
    "draw_masks",
    "draw_scene",
]
