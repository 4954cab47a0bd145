"""Errors meant for the user's eyes."""


class UserError(Exception):
    """A mistake the user can mend; the command line prints its message as one paragraph."""
