"""Samplers: requests in, rollouts out. The protocol is in base.py; local.py and server.py implement it."""
