"""What measured things are called, wherever they are shown."""

RATES = {
    "attack_success": "attack success",
    "best_of_n": "best of N",
    "benign_compliance": "benign compliance",
    "over_refusal": "over-refusal",
    "faithful": "faithful",
}
DETECTION = {"d_prime": "d′", "criterion": "criterion"}
ABOUT_DETECTION = (
    "d′ is 0 where a defender treats harmful and benign requests alike, and 2 where it declines 84% of the harmful and "
    "16% of the benign ones. The criterion is below 0 where it rather declines, above 0 where it rather complies."
)
SHOWN = {
    "current": "current attacker",
    "initial": "initial attacker",
    "written": "held-out attacks",
    "plain": "plain seeds",
}
"""What the defender is shown in an evaluation."""

DIVERSITY = {
    "distinct_1": "distinct words",
    "distinct_2": "distinct word pairs",
    "self_bleu": "self-BLEU",
    "embedding_spread": "embedding spread",
}
SIGNS = {
    "attack_tokens": "tokens of an attack",
    "response_tokens": "tokens of a response",
    "position_bias": "judge's bias to the first place",
    "score_saturation": "share of scores that are 0 or 10",
}
STEP = {
    "attack_success": RATES["attack_success"],
    "benign_compliance": RATES["benign_compliance"],
    "parsed": "parsed",
    "faithful": RATES["faithful"],
    "attacker_reward": "attacker reward",
    "defender_reward": "defender reward",
    "duplicates": "duplicates",
}
"""Of a step's games."""
