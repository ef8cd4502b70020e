"""The game, stage by stage: attack, check, defend, grade, then pair or group. play.py runs them in this order."""
