"""What a lever saves: never from another start, never from another loss, and never where it did not get there."""

import json
from types import SimpleNamespace

import pytest
import torch

from clinscale import bench
from clinscale.bench.measure import surroundings
from clinscale.bench.recipe.levers import Lever, chosen_levers
from clinscale.bench.recipe.results import LeverResult, RecipeRecord, SeedResult
from clinscale.bench.recipe.run import Evaluation, Goal, Run, _Watched
from clinscale.errors import ClinscaleError, ConfigError, DataError
from clinscale.pretrain import PretrainConfig

SHAPE = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}


def config(shards="shards", **runtime):
    recipe = {
        "shards": shards,
        "model": {"size": "tiny", "hf_overrides": SHAPE},
        "row_tokens": 64,
        "rows_per_step": 4,
        "duration": "6steps",
        "optimizer": {"learning_rate": 1e-2},
        "seed": 5,
    }
    settings = {"evaluate_every_steps": 2, "evaluation_rows": 8, **runtime}
    return PretrainConfig.parse({"name": "bench", "recipe": recipe, "runtime": settings}, source="test")


def run(*losses):
    """A run evaluated every 10 steps of 100 tokens, which took 0.5 s each."""
    return Run(
        tuple(Evaluation(10 * at, 1000.0 * at, 5.0 * at, loss) for at, loss in enumerate(losses)), (0.1, 0.2)
    )


def result(name, paper, *runs):
    """A lever's runs, one a seed, beside the same run of the paper's recipe."""
    goal = paper.last.loss
    seeds = [
        SeedResult(seed, paper.reached(goal), one.reached(goal), one.last, one.load)
        for seed, one in enumerate(runs)
    ]
    return LeverResult(Lever(name, ()), tuple(seeds))


def record(*results):
    ratios = {
        f"{one.lever.name}_{cost}": found
        for one in results
        for cost in ("tokens", "device_s")
        if (found := one.ratio(cost))
    }
    return RecipeRecord(surroundings=surroundings("recipe", "cpu"), ratios=ratios, levers=results, details={})


def test_the_loss_is_reached_on_the_line_between_two_evaluations_for_the_first_time():
    curve = run(8.0, 6.0, 5.0, 5.5, 4.0)
    found = curve.reached(5.25)
    assert (found.step, found.tokens, found.device_s) == (20, 1750.0, 8.75)
    assert curve.reached(6.0).tokens == 1000.0
    assert curve.reached(3.9) is None


@pytest.mark.parametrize("losses", [(8.0, 6.1, 5.3), (8.0, 5.1, 5.7, 5.3), (8.0, 5.3, 5.3)])
def test_a_recipe_that_changes_nothing_saves_nothing_even_where_its_loss_rose_again(losses):
    same = result("same", run(*losses), run(*losses), run(*losses))
    for cost in ("tokens", "device_s"):
        found = same.ratio(cost)
        assert found.median == found.min == found.max == 1
        assert found.more == {"mean": 1, "low": 1, "high": 1}


def test_the_interval_is_of_seeds_and_one_seed_has_none():
    paper = run(8.0, 7.0, 6.0, 5.0, 4.0)
    found = result("fast", paper, run(8.0, 4.0), run(8.0, 6.0, 4.0), run(8.0, 6.0, 4.0)).ratio("tokens", 1.5)
    assert (found.median, found.min, found.max, found.asked) == (2, 2, 4, 1.5)
    assert found.more["mean"] == pytest.approx(2 ** (4 / 3))
    # by hand: logs log 2 x (2, 1, 1), their mean 4/3, standard error 1/3, t of two degrees of freedom 4.303
    assert found.more["low"] == pytest.approx(2 ** (4 / 3 - 4.3027 / 3), rel=1e-4)
    assert found.more["high"] == pytest.approx(2 ** (4 / 3 + 4.3027 / 3), rel=1e-4)
    alone = result("fast", paper, run(8.0, 4.0))
    assert alone.ratio("tokens").more == {"mean": pytest.approx(4), "low": None, "high": None}
    [row] = record(alone).rows()
    assert row["95 % of tokens"] == "one seed"


def test_what_was_not_reached_by_every_seed_has_no_ratio_and_says_where_it_ended():
    paper = run(8.0, 6.0, 5.0)
    found = record(result("slow", paper, run(8.0, 4.0), run(8.0, 6.5, 5.25)), result("fast", paper, run(8.0, 4.0)))
    assert set(found.ratios) == {"fast_tokens", "fast_device_s"}
    slow, _ = found.rows()
    assert slow["reached"] == "not reached by 1 of 2"
    assert slow["ended at"] == "5.2500"
    assert slow["tokens, paper / lever"] == slow["device-seconds, paper / lever"] == "not reached"
    told = json.loads(json.dumps(found.plain()))["levers"]["slow"]
    assert told["reached"] == 1
    assert told["seeds"][1]["reached"] is None
    assert told["seeds"][1]["ended"]["loss"] == 5.25


def test_a_lever_that_starts_elsewhere_is_refused_before_its_first_step():
    told = []
    context = SimpleNamespace(rank=0, world_size=1, preempted=lambda: False, log=told.append)
    watched = _Watched(context, SimpleNamespace(total_steps=6), "wider", Goal(start_loss=6.9, end_loss=5.0))
    watched.log({"step": 0, "eval/loss": 6.9 * (1 + 1e-7)})
    with pytest.raises(ClinscaleError, match=r"lever wider must start at the held-out loss .* 6\.9, got 6\.901"):
        watched.log({"step": 0, "eval/loss": 6.901})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("recipe.seed=1", r"must leave recipe\.seed as it is"),
        ("recipe.duration=9steps", r"must leave recipe\.duration as it is"),
        ("recipe.model.hf_overrides.hidden_size=64", r"must leave recipe\.model as it is"),
        ("recipe.evaluation_pattern=hf", r"must leave recipe\.evaluation_pattern as it is"),
        ("recipe.shards=other", r"must leave recipe\.shards as it is"),
        ("runtime.evaluation_rows=1", "must change keys of recipe only"),
        ("name=other", "must change keys of recipe only"),
        ("recipe.optimiser.name=muon", "optimizer"),
    ],
)
def test_a_lever_changes_the_training_and_neither_start_nor_budget_nor_what_is_evaluated(override, told):
    with pytest.raises(ConfigError, match=told):
        Lever.parse(f"mine: {override}").config(config())


def test_known_levers_are_overrides_of_the_recipe():
    settled = config(num_workers=1, zero={"stage": 0})
    changed = [Lever(name, overrides).config(settled).recipe for name, overrides in bench.LEVERS.items()]
    assert len({one.fingerprint() for one in (settled.recipe, *changed)}) == len(bench.LEVERS) + 1


def test_levers_go_alone_and_together():
    mine = "fast: recipe.optimizer.learning_rate=0.02 recipe.optimizer.schedule=cosine"
    assert [lever.name for lever in chosen_levers(["muon", mine])] == ["muon", "fast", "muon+fast"]
    assert chosen_levers(["muon", mine])[-1].overrides == (*bench.LEVERS["muon"], *mine.split()[1:])
    pairs = chosen_levers(["muon", "spans", mine], ["muon+spans", "spans+fast"])
    assert [lever.name for lever in pairs][3:] == ["muon+spans", "spans+fast"]
    assert [lever.name for lever in chosen_levers(["falling_mask", "falling_mask_cosine"], ["falling_mask"])] == [
        "falling_mask",
        "falling_mask_cosine",
    ]


@pytest.mark.parametrize(
    ("levers", "together", "told"),
    [
        (["moun"], [], "did you mean muon"),
        (["muon", "muon"], [], "each given once"),
        ([], [], "got none"),
        (["paper: recipe.seed=1"], [], "has its meaning already"),
        (["muon: recipe.optimizer.name=adamw"], [], "has its meaning already"),
        (["../x: recipe.optimizer.name=muon"], [], "must be a plain word"),
        (["muon"], ["muon+spans"], "no --lever"),
        (["falling_mask", "falling_mask_cosine"], [], r"both set recipe\.masking\.schedule"),
    ],
)
def test_levers_that_mean_nothing_or_two_things_are_refused(levers, together, told):
    with pytest.raises(ConfigError, match=told):
        chosen_levers(levers, together)


@pytest.mark.slow
def test_what_is_kept_is_not_trained_again_and_the_paper_itself_saves_nothing(shards, forks, tmp_path):
    torch.set_num_threads(1)
    told, folder = [], tmp_path / "levers"

    def measured(*levers, settings=None):
        told.clear()
        return bench.bench_recipe(
            settings or config(shards.uri),
            levers=levers,
            together=["same"],
            seeds=1,
            record=folder,
            on_progress=told.append,
        )

    first = measured("same:")
    assert first.ratios["same_tokens"].median == 1
    assert first.levers[0].seeds[0].ended.step == 6
    assert told[0].startswith("paper, seed 5: step 0 of 6, held-out loss ")
    assert any(line.startswith("same, seed 5: step 6 of 6") for line in told)

    frozen = "frozen: recipe.optimizer.learning_rate=1e-9"
    second = measured("same:", frozen)
    assert told
    assert all(line.startswith("frozen, ") for line in told)
    assert second.levers[0] == first.levers[0]
    assert second.levers[1].reached == 0
    assert {"same_tokens", "same_device_s"} == set(second.ratios)

    with pytest.raises(
        ConfigError, match=r"paper-seed-5\.json holds another run .*runtime\.evaluation_rows: 8 -> 4"
    ):
        measured("same:", settings=config(shards.uri, evaluation_rows=4))
    (folder / "same-seed-5.json").write_text("{}")
    with pytest.raises(DataError, match=r"same-seed-5\.json holds no run of this bench"):
        measured("same:")
    with pytest.raises(ConfigError, match=r"evaluate_every_steps must be below the 6 steps"):
        measured("same:", settings=config(shards.uri, evaluate_every_steps=6))
