"""What LVIS's fixed average precision keeps: of each class the best detections of all images.

An image says of some classes alone whether they are in it. What is found of the others is judged
nowhere, so that its scores are all that is needed of it: they count towards the limit.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxseg.eval.gather import gather_bytes
from jaxseg.structures import Detections

LIMIT = 10_000  # detections of each class (arXiv 2102.01066, section 4)
SCORED = np.dtype([("category", "<i8"), ("score", "<f8")])


@dataclass
class BestScores:
    """The best scores of each class, of any number of detections in bounded memory.

    Attributes:
      limit: of each class.
      room: scores that are held before those that are too many are let go.
    """

    limit: int = LIMIT
    room: int = 1 << 22
    _parts: list[np.ndarray] = field(default_factory=list)
    _held: int = 0

    def add(self, categories: np.ndarray, scores: np.ndarray) -> None:
        """Count some detections; categories (n,), scores (n,)."""
        part = np.empty(len(scores), SCORED)
        part["category"], part["score"] = categories, scores
        self._parts.append(part)
        self._held += len(part)
        if self._held > self.room:
            best = self._best()
            self._parts, self._held = [best], len(best)
            self.room = max(self.room, 2 * len(best))

    def gather(self) -> "BestScores":
        """Those of all processes; each must call this."""
        parts = gather_bytes(self._best().tobytes())
        return BestScores(self.limit, _parts=[np.frombuffer(part, SCORED) for part in parts])

    def least(self) -> dict[int, float]:
        """The score that a detection must have to be among the best, of classes with too many."""
        best = self._best()
        categories, counts = np.unique(best["category"], return_counts=True)
        ends = np.cumsum(counts)
        return {
            int(category): float(best["score"][end - 1])
            for category, count, end in zip(categories, counts, ends, strict=True)
            if count == self.limit
        }

    def _best(self) -> np.ndarray:
        """Sorted by class, and by falling score."""
        every = np.concatenate([np.empty(0, SCORED), *self._parts])
        every = every[np.lexsort((-every["score"], every["category"]))]
        starts = np.flatnonzero(np.diff(every["category"], prepend=-1, append=-1))[:-1]
        counts = np.diff(np.append(starts, len(every)))
        rank = np.arange(len(every)) - np.repeat(starts, counts)
        return every[rank < self.limit]


@dataclass(frozen=True)
class Federation:
    """Of which classes each image says whether they are in it.

    Attributes:
      judged: image id to category ids, of what is annotated and of what is known to be absent.
      limit: detections of each class that are kept.
    """

    judged: Mapping[Any, Collection[int]]
    limit: int = LIMIT

    @classmethod
    def of(cls, ground_truth: Mapping[str, Any], limit: int = LIMIT) -> "Federation":
        """That of an LVIS file."""
        judged = {i["id"]: set(i.get("neg_category_ids") or ()) for i in ground_truth["images"]}
        for annotation in ground_truth["annotations"]:
            judged[annotation["image_id"]].add(annotation["category_id"])
        return cls(judged, limit)

    def select(
        self,
        detections: Detections,
        image_id: int | str,
        category_ids: Sequence[int | None],
        best: BestScores,
    ) -> np.ndarray:
        """The places of an image's detections that are judged; `best` counts all of them.

        Args:
          detections: of one row.
          category_ids: of each label; None where it has none.
        """
        known = np.asarray([-1 if i is None else i for i in category_ids], np.int64)
        labels, scores = np.asarray(detections.labels)[0], np.asarray(detections.scores)[0]
        categories = known[np.clip(labels, 0, len(known) - 1)]
        finite = np.isfinite(scores) & np.isfinite(np.asarray(detections.boxes)[0]).all(-1)
        # Nothing is surely absent: 0 is the score of what a caption did not ask for.
        counted = finite & (scores > 0) & (categories >= 0) & (labels < len(known))
        best.add(categories[counted], scores[counted])
        judged = counted & np.isin(categories, list(self.judged[image_id]))
        return np.flatnonzero(judged | ~finite)  # whoever reads on warns of the others


def best_records(records: Sequence[dict], least: Mapping[int, float]) -> list[dict]:
    """The records with the score that their class needs; all that tie with the last one stay."""
    none = -np.inf
    return [r for r in records if r["score"] >= least.get(r["category_id"], none)]
