"""Names with holes that can be read and written: `layers.{i}.norm{n}` ↔ `layer_{i}/norm{n}`."""

import re
from functools import cached_property

NUMBER = r"\d+"
HOLE = re.compile(r"\{(\w+)(?::([^}]*))?\}")


class Template:
    """A name with holes: `{i}` stands for a number, `{axis:row|col}` for one of the words."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def pattern(self) -> re.Pattern:
        pieces, end = [], 0
        for hole in HOLE.finditer(self.text):
            name, choices = hole.groups()
            pieces.append(re.escape(self.text[end : hole.start()]))
            pieces.append(f"(?P<{name}>{choices or NUMBER})")
            end = hole.end()
        return re.compile("".join(pieces) + re.escape(self.text[end:]))

    def read(self, name: str) -> dict[str, str] | None:
        """What stands in the holes of `name`, or None if it is no such name."""
        match = self.pattern.fullmatch(name)
        return match.groupdict() if match else None

    def write(self, holes: dict[str, str]) -> str:
        """The name with its holes filled."""
        return HOLE.sub(lambda hole: holes[hole.group(1)], self.text)
