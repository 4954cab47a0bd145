"""Predictors: weights and images in, named objects out."""

from jaxseg.predict.detector import Detector
from jaxseg.predict.draw import draw
from jaxseg.predict.draw_scene import draw_scene
from jaxseg.predict.panoptic import Scene
from jaxseg.predict.result import Prediction

__all__ = ["Detector", "Prediction", "Scene", "draw", "draw_scene"]
