"""Data sets by name, augmentation, batches on canvases, and a loader whose position is a number."""

from jaxseg.data.classes import COCO_91, Classes
from jaxseg.data.dataset import Dataset, Example, open_dataset

__all__ = ["COCO_91", "Classes", "Dataset", "Example", "open_dataset"]
