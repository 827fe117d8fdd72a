"""Studies in seconds: the searchers on what is looked up instead of trained."""

FUNCTIONS = ("branin", "hartmann6")
FAMILIES = ("alike", "unlike", "plateaus", "late")
MADE_UP = (*FUNCTIONS, *FAMILIES)

ASHA = "+asha"
"""After a searcher's name: trials that fall behind are stopped, and the budget is the epochs of whole trainings."""

AGAIN = "again"
"""In place of a share of the epochs: the grid itself, trained once more under other seeds."""
