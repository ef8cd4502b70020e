"""What the files in a run's folder are called."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SAMPLES = "samples"
EVALUATIONS = "evaluation.jsonl"
INITIAL_ATTACKS = "initial-attacks.json"
"""The attacks of the first attacker, which the defender answers in every evaluation."""
