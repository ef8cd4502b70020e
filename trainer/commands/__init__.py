"""The command line: advgame train | warmstart | evaluate | crossplay | report | redteam."""
