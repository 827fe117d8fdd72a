"""Sentences from files: `tables` reads columns as text, `sentences` makes rows of them, `file` is `text:PATH`."""
