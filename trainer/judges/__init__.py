"""Judges: requests in, scores out. request.py has the interface; arena, model and rules implement it."""
