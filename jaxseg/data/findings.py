"""What the doctor writes down."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One fault.

    Attributes:
      kind: what all faults of this kind are called.
      detail: where it is and what was found there.
      broken: whether it would break training.
    """

    kind: str
    detail: str
    broken: bool
