"""What people get to see of a run: the console, curves, transcripts, and the red-team report."""
