"""Judges: requests in, scores out. request.py has the interface, kinds.py picks the judge of a setting."""
