"""Commands on what a run leaves behind: `advgame COMMAND …`."""
