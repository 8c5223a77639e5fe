"""The one error that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """Something the user can put right. Its text names the key, the value and what is allowed; exit code 2."""
