"""What a run of `jaxseg label` has done so far: lines of JSON, one for each image."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError


class Log:
    """A file beside the labels that grows by an image at a time, so that a run can go on.

    Its first line holds the settings that the others were made with.

    Attributes:
      path: of the file.
      done: what is kept of each image, by its whole path.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        """Read what is there of the labels `out`, if anything is.

        Raises:
          UserError: no run wrote it, or one with other settings.
        """
        self.path = out.with_name(f"{out.name}.progress")
        self.done: dict[str, dict] = {}
        self._settings = dict(settings)
        self._whole = 0  # bytes of lines that were written to their end
        if os.path.lexists(self.path):
            self._read(out)

    def _read(self, out: Path) -> None:
        data = self.path.read_bytes()
        self._whole = data.rfind(b"\n") + 1
        if not self._whole:
            # A run was stopped in its first line, or this is somebody's file.
            if data and not data.startswith(b'{"settings"'):
                raise self._foreign()
            return
        try:
            first, *rest = map(json.loads, data[: self._whole].splitlines())
            before, self.done = dict(first["settings"]), {one["file"]: one for one in rest}
        except (ValueError, KeyError, TypeError):
            raise self._foreign() from None
        names = [n for n in self._settings if before.get(n) != self._settings[n]]
        if names:
            raise UserError(
                f"{out} was begun with other weights or settings ({names[0]} was "
                f"{before.get(names[0])!r}): choose another file with --out, give the same ones to "
                f"go on, or remove {self.path} and {out} to begin anew"
            )

    def _foreign(self) -> UserError:
        return UserError(
            f"{self.path} was not written by `jaxseg label`, which keeps there what it has done: "
            "choose another file with --out"
        )

    def add(self, record: dict[str, Any]) -> None:
        """Keep what was found in an image."""
        lines = [record] if self._whole else [{"settings": self._settings}, record]
        data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            # Over what is left of a line that was not written to its end.
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(data)
        self._whole += len(data)
        self.done[record["file"]] = record
