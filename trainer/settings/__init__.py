"""Every setting of a run: what there is, how it is read, and what is refused."""
