"""The command line: advgame train | evaluate | crossplay | redteam."""
