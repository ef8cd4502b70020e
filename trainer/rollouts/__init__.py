"""Samplers: requests in, rollouts out. The protocol is in base.py; generate.py and server.py implement it."""
