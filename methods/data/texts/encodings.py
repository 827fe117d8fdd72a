"""Bytes of a text file as UTF-8, and what they look like where they are not."""

from __future__ import annotations

import codecs
import gzip
import re
from pathlib import Path

from bo_distill.methods.errors import UsageError

GZIP = b"\x1f\x8b"
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SAMPLE = 1 << 16  # bytes that an encoding is guessed from


def utf8(name: str, path: Path, encoding: str | None) -> bytes:
    """The content of a file as UTF-8 without a byte order mark; what gzip packed is unpacked.

    Args:
        name: of the file, for messages.
        encoding: of the content; None is UTF-8.

    Raises:
        UsageError: it is in another encoding, or the encoding is unknown. OSError, EOFError: it cannot be read.
    """
    data = path.read_bytes()
    if data.startswith(GZIP):
        data = gzip.decompress(data)
    try:
        codec = codecs.lookup(encoding or "utf-8")
        decoder = codec.incrementaldecoder()
    except (LookupError, TypeError):
        raise UsageError(f"--encoding {encoding}: no such encoding; give one that Python knows, e.g. cp949") from None
    if codec.name == "utf-8":
        try:  # in pieces: the text itself would take up to four times the memory of the file
            for start in range(0, len(data), 1 << 24):
                decoder.decode(data[start : start + (1 << 24)], start + (1 << 24) >= len(data))
        except UnicodeDecodeError:
            raise UsageError(f"{name}: {not_utf8(data)}") from None
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(codec.name).removeprefix("\ufeff").encode("utf-8", "replace")
    except UnicodeError as error:
        raise UsageError(f"{name}: not {encoding} ({' '.join(str(error).split())}); give another --encoding") from None


def not_utf8(data: bytes) -> str:
    """Where bytes stop being UTF-8, what they look like, and what to do."""
    try:
        data.decode("utf-8")
        return "UTF-8"
    except UnicodeDecodeError as error:
        where = f"not UTF-8 at byte {error.start} (line {data.count(10, 0, error.start) + 1})"
    guesses = " or ".join(looks_like(data))
    return (
        f"{where}; it looks like {guesses}: give --encoding {guesses}" if guesses else f"{where}; give its --encoding"
    )


def looks_like(data: bytes) -> tuple[str, ...]:
    """The encodings that bytes seem to be in, most likely first: one, or two where each byte is a character."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return (name,)
    from charset_normalizer import from_bytes
    from charset_normalizer.utils import is_multi_byte_encoding

    # Only what is not ASCII tells one encoding from another.
    telling = b"\n".join(line for line in re.split(rb"[\r\n]+", data[: 1 << 22]) if not line.isascii())
    found = from_bytes(telling[:SAMPLE] or data[:SAMPLE])
    if not found:
        return ()
    names = [match.encoding for match in found if not is_multi_byte_encoding(match.encoding)]
    best = found[0].encoding
    if is_multi_byte_encoding(best):
        return (best,)
    # Windows' western code page is by far the most frequent, and its neighbours differ from it in a few letters only.
    return tuple(dict.fromkeys([best, *(["cp1252"] if "cp1252" in names else names[1:2])]))
