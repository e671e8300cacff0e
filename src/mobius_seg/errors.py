"""The one exception that means: the user gave something that cannot be used."""


class InputError(ValueError):
    """Bad input from the user, told in one line: what, where, and what is allowed.

    The command line prints the message and exits with code 2; in Python it is a ``ValueError``.
    """
