"""What a person, not a programmer, is told."""


class UsageError(ValueError):
    """Bad input. The message is one line that names the value and the remedy; the command line exits with 2."""


class TestSplitLocked(RuntimeError):
    """The test split was asked for where only training and validation may be seen."""

    __test__ = False  # pytest would otherwise take the name for a test class
