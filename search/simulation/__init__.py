"""Studies in seconds: the searchers on what is looked up instead of trained."""

FUNCTIONS = ("branin", "hartmann6")
FAMILIES = ("alike", "unlike", "plateaus", "late")
MADE_UP = (*FUNCTIONS, *FAMILIES)
