"""A supervised start: a player is taught the game by examples, before it plays."""
