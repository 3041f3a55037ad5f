"""What ends a prediction before its last row. Each message names the file and what to do."""


class CannotPredict(Exception):
    """The rows cannot be predicted, or not to the end."""


class WrongUse(CannotPredict):
    """The options do not fit each other, the input or the model."""


class CannotRead(CannotPredict):
    """The input cannot be read."""


class CannotWrite(CannotPredict):
    """The output cannot be written."""


class Stopped(Exception):
    """The run was asked to end early."""
