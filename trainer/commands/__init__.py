"""The command line: advgame train | warmstart | estimate | evaluate | crossplay | report | redteam."""
