"""Errors meant for the user's eyes."""


class UserError(Exception):
    """A mistake the user can mend; the command line prints its message as one paragraph."""


def require_share(name: str, value: float) -> None:
    """Raise `UserError` unless the value of what is called `name` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} must lie in [0, 1]; got {value}")
