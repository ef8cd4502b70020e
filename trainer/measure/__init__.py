"""What games, players and runs are measured by."""
