"""What a run will take, predicted from shapes alone: memory, traffic, work and time. Models, not measurements."""
