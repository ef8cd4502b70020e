"""Engines: who holds the weights of a player, reduces its gradients, and steps."""
