"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Something a user gave cannot be used. The message is one line: the field, the value, and what to do.

    Raised at the door, before any work is done; the command line ends with exit code 2, HTTP answers 400.
    """
