"""What a person, not a programmer, is told."""

import os


class UsageError(ValueError):
    """Bad input. The message is one line that names the value and the remedy; the command line exits with 2."""


def counted(number: int, noun: str, nouns: str = "") -> str:
    """How many there are of something: "1 row", "2 rows", "12,000 rows".

    Args:
        nouns: the plural, where it is not the noun with an s.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {nouns or f'{noun}s'}"


def check_utf8(option: str, text: str) -> None:
    """Refuse a name that cannot be kept: Python holds bytes of a command line that are not UTF-8 as surrogates.

    Raises:
        UsageError: it has such bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode("utf-8", "backslashreplace")
        raise UsageError(f"{option} {shown}: this name is not UTF-8; rename it or give another") from None


class TestSplitLocked(RuntimeError):
    """The test split was asked for where only training and validation may be seen."""

    __test__ = False  # pytest would otherwise take the name for a test class
