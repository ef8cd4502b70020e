"""Commands for what a run leaves behind."""
