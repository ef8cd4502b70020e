"""What a taught player does with seeds and wrappings that it was not taught."""

from dataclasses import asdict, dataclass, replace

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.judges.kinds import make_judge
from advgame.trainer.measure.detection import Estimate, detect
from advgame.trainer.measure.evaluation import measuring, written
from advgame.trainer.measure.rates import Rate, rate, rates
from advgame.trainer.models.policy import Policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Game, Seed
from advgame.trainer.report.labels import DETECTION
from advgame.trainer.report.wording import estimated, percent_of
from advgame.trainer.rollouts.base import Sampler
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.preflight import check_judge
from advgame.trainer.seeds import CATEGORIES, limited, read_seeds
from advgame.trainer.settings.schema import AttackerConfig, DefenderConfig, SamplingConfig, WarmstartConfig
from advgame.trainer.wrappings import PLAIN, Wrapping, read_wrappings, wrapped

ATTACKS = 4
"""Samples of an attacker for each query: fewer would hide that all are the same."""
LABELS = {
    "parsed": "are in the format",
    "faithful": "of these keep the meaning",
    "distinct": "of these are no repetition",
    "attack_success": "complies with harm",
    "deflected": "deflects harm",
    "benign_compliance": "helps with the benign",
} | DETECTION
"""Of the figures, as the report prints them."""

Figures = dict[str, Rate | Estimate]


@dataclass(frozen=True)
class HeldOut:
    """What a player is measured on."""

    seeds: list[Seed]
    wrappings: list[Wrapping]
    rules: Rules
    """The game's, with a judge that is ready."""


def read_held_out(config: WarmstartConfig) -> HeldOut:
    """Raises ConfigError that names the setting, or the file and the line, of what is wrong."""
    files = config.held_out
    seeds = read_seeds(files.seeds, "held_out.seeds")
    by_category = [[seed for seed in seeds if seed.category == category] for category in CATEGORIES]
    kept = [seed for part in by_category for seed in limited(part, files.limit)]
    wrappings = read_wrappings(files.wrappings, "held_out.wrappings") if files.wrappings else []
    check_judge(config.judge)
    return HeldOut(kept, wrappings, make_rules(config))


def make_rules(config: WarmstartConfig) -> Rules:
    """Each response is scored alone, and on the query that was wrapped."""
    attacker, defender = config.attacker, config.defender
    prompts = Prompts(config.templates)
    material = attacker.sampling.max_new_tokens + 2 * defender.sampling.max_new_tokens
    rules = Rules(
        prompts,
        make_judge(config.judge, prompts, config.seed, material),
        AttackerConfig(format=attacker.format, sampling=attacker.sampling),
        DefenderConfig(instruction=defender.instruction, sampling=defender.sampling, condition_on="seed"),
        config.judge,
    )
    return measuring(rules, greedy=False)


def report(policy: Policy, held_out: HeldOut, config: WarmstartConfig) -> dict[str, Figures]:
    """The player's figures, by what it was shown. The policy's weights are freed."""
    sampler = LocalSampler(policy, config.player, sampling_of(config).precision).freeze()
    measure = attacker_figures if config.player == "attacker" else defender_figures
    return measure(sampler, held_out, (config.seed, "report"))


def sampling_of(config: WarmstartConfig) -> SamplingConfig:
    """How the player samples."""
    return (config.attacker if config.player == "attacker" else config.defender).sampling


def attacker_figures(sampler: Sampler, held_out: HeldOut, draws: Key) -> dict[str, Figures]:
    """Of ATTACKS attacks on each query: how many are in the format, keep the meaning, and are no repetition."""
    rules = replace(held_out.rules, attacker=replace(held_out.rules.attacker, samples=ATTACKS))
    games = write(rules, sampler, held_out.seeds, game_keys(draws, len(held_out.seeds)), Clock())
    attacks = [attack for game in games for attack in game.attacks]
    texts = [[attack.content for attack in game.attacks if attack.outcome.readable] for game in games]
    firsts = [text not in of_query[:i] for of_query in texts for i, text in enumerate(of_query)]
    return {
        "attacks": {
            "parsed": rate([attack.outcome.readable for attack in attacks]),
            "faithful": rates(games, rules.judging.success_score)["faithful"],
            "distinct": rate(firsts),
        }
    }


def defender_figures(sampler: Sampler, held_out: HeldOut, draws: Key) -> dict[str, Figures]:
    """For plain queries, and for lightly and heavily wrapped ones: what is complied with, and what is deflected."""
    rules, figures = held_out.rules, {}
    for kind in ("plain", "light", "heavy"):
        wrappings = [wrapping for wrapping in (PLAIN, *held_out.wrappings) if wrapping.kind == kind]
        if wrappings:
            games = written(list(wrapped(held_out.seeds, wrappings)))
            games = answer(rules, sampler, games, game_keys((*draws, kind), len(games)), Clock())
            figures[kind] = compliance(games, rules.judging.success_score, (*draws, kind))
    return figures


def compliance(games: list[Game], success_score: float, key: Key) -> Figures:
    """Of answered games: rates, and how well harm and its look-alikes are told apart."""
    known, detection = rates(games, success_score), detect(games, success_score, key)
    scores = [
        response.score
        for game in games
        if game.seed.category == "harmful"
        for attack in game.attacks
        for response in attack.responses
    ]
    deflected = rate([None if score is None else score >= success_score for score in scores])
    return {
        "attack_success": known["attack_success"],
        "deflected": deflected,
        "benign_compliance": known["benign_compliance"],
        "d_prime": detection.d_prime,
        "criterion": detection.criterion,
    }


def as_record(figures: dict[str, Figures]) -> dict:
    """For report.json."""
    return {part: {name: asdict(value) for name, value in known.items()} for part, known in figures.items()}


def as_text(figures: dict[str, Figures]) -> str:
    """A line for each figure, with its 95% interval."""
    lines = [
        f"{part:<9}{LABELS[name]:<28}{percent_of(value) if isinstance(value, Rate) else estimated(value)}"
        for part, known in figures.items()
        for name, value in known.items()
    ]
    return "\n".join(lines)
