"""The command line: advgame train | evaluate | crossplay | report | redteam."""
