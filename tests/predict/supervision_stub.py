"""The part of supervision's `Detections` that we fill, with its checks (as of 0.31).

Supervision itself brings FFmpeg and matplotlib, more than all else that the tests install.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Detections:
    xyxy: np.ndarray
    mask: np.ndarray | None = None
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.xyxy)
        assert isinstance(self.xyxy, np.ndarray)
        assert self.xyxy.shape == (n, 4)
        for value in (self.confidence, self.class_id):
            assert isinstance(value, np.ndarray)
            assert value.shape == (n,)
        assert np.issubdtype(self.class_id.dtype, np.integer)
        for value in self.data.values():
            assert isinstance(value, np.ndarray | list)
            assert len(value) == n

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, key: str):
        return self.data[key]
