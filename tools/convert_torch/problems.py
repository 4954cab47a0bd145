"""The report of what does not fit."""

from dataclasses import dataclass, field

from jaxseg.errors import UserError


class ConversionError(UserError):
    """The report of everything that does not fit, one problem a line."""


@dataclass
class Problems:
    """Collects what does not fit."""

    lines: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, why: str = "") -> None:
        self.lines.append(f"{kind:<10} {name}{': ' + why if why else ''}")

    def check(self, what: str) -> None:
        if self.lines:
            count = f"{len(self.lines)} problem{'s' if len(self.lines) > 1 else ''}"
            report = "\n".join(f"  {line}" for line in sorted(self.lines))
            raise ConversionError(f"{count} converting {what}:\n{report}")
