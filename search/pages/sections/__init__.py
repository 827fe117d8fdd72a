"""The sections of a page, each from what a study left behind."""
