"""Search spaces: every mistake is found before a trial starts."""

import json

import optuna.distributions
import pytest
import yaml
from optuna.trial import create_trial

from clinscale.errors import ConfigError
from clinscale.sweep import SearchSpace, load_space
from clinscale.sweep.space import spaces_folder

RATE = {"type": "float", "low": 1e-5, "high": 1e-4, "log": True}
EPOCHS = {"type": "int", "low": 1, "high": 5}
SIZES = {"type": "categorical", "choices": [8, 16]}


def parse(**values):
    return SearchSpace.parse(values, source="space.yaml")


def test_a_point_becomes_a_recipe():
    space = parse(
        fixed={"epochs": 3, "optimizer.weight_decay": 0.1},
        parameters={"optimizer.learning_rate": RATE, "batch_size": {"type": "categorical", "choices": [8, 16]}},
    )
    recipe = space.recipe("base", {"optimizer.learning_rate": 5e-5, "batch_size": 8}, seed=4)
    assert (recipe.model, recipe.epochs, recipe.batch_size, recipe.seed) == ("base", 3, 8, 4)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (5e-5, 0.1)


def test_dimensions_are_optunas():
    space = parse(parameters={"optimizer.learning_rate": RATE, "epochs": {"type": "int", "low": 2, "high": 6}})
    assert space.distributions({"optimizer.learning_rate": 2e-5, "epochs": 3}) == {
        "optimizer.learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-4, log=True),
        "epochs": optuna.distributions.IntDistribution(2, 6),
    }


def test_a_step_that_does_not_reach_the_end_of_a_range_ends_before_it():
    space = parse(parameters={"epochs": {"type": "int", "low": 1, "high": 6, "step": 4}})
    assert space.epochs == 5 == max(point["epochs"] for point in space.quasi_random(8))
    assert space.parameters["epochs"].count() == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parameters": {"optimizer.learning_rate": {**RATE, "low": 1.0}}}, "low must not exceed high"),
        ({"parameters": {"optimizer.learning_rat": RATE}}, r"did you mean optimizer\.learning_rate"),
        ({"parameters": {"optimizer.learning_rate": {**RATE, "logg": True}}}, "did you mean log"),
        ({"parameters": {}}, "at least one entry"),
        ({"parameters": {"batch_size": {"type": "float", "low": 8, "high": 16}}}, "batch_size: .* valid integer"),
        (
            {"parameters": {"max_tokens": {"type": "float", "low": 64, "high": 128, "step": 32.5}}},
            "max_tokens: .* valid integer",
        ),
        ({"parameters": {"epochs": {"type": "int", "low": 0, "high": 4}}}, "epochs must be at least 1"),
        ({"parameters": {"batch_size": {"type": "categorical", "choices": [8, "big"]}}}, "of one type"),
        ({"parameters": {"batch_size": {"type": "categorical", "choices": []}}}, "choices"),
        ({"parameters": {"optimizer.learning_rate": {**RATE, "low": 0.0}}}, "must start above 0"),
        ({"parameters": {"optimizer.learning_rate": {**RATE, "step": 1e-5}}}, "exclude each other"),
        (
            {"parameters": {"optimizer.learning_rate": RATE}, "fixed": {"optimizer.learning_rate": 1e-4}},
            "both fixed",
        ),
        (
            {"parameters": {"optimizer.learning_rate": RATE}, "first_trials": [{"epochs": 3}]},
            "every parameter once",
        ),
        (
            {
                "parameters": {"batch_size": {"type": "int", "low": 8, "high": 16}},
                "first_trials": [{"batch_size": 32}],
            },
            "batch_size=32, which the space does not hold",
        ),
        (
            {"parameters": {"epochs": {"type": "int", "low": 2, "high": 4, "when": {"batch_sise": [8]}}}},
            "epochs depends on batch_sise, which is no parameter above it",
        ),
        ({"parameters": {"optimizer.learning_rate": RATE}, "constraints": {"memory_gb": 0}}, "must be above 0"),
        ({"parameters": {"epochs": {"type": "int", "low": 1, "high": 10**20}}}, "must be within"),
        ({"parameters": {"dropout": {"type": "float", "low": 0, "high": 0.3, "step": 0}}}, "step must be above 0"),
        (
            {"parameters": {"optimizer.learning_rate": {**RATE, "low": 1e-320}}},
            r"at 1\.2e-38 or more, got low=1e-320",
        ),
        (
            {"parameters": {"optimizer.learning_rate": RATE}, "fixed": {"seed": 3}},
            "seed must be left to recipe.seed",
        ),
        (
            {"parameters": {"max_tokens": {"type": "categorical", "choices": ["64", " 64"]}}},
            "'64' is the same as ' 64'",
        ),
        (
            {"parameters": {"optimizer.warmup_ratio": RATE}, "fixed": {"optimizer.warmup_steps": 9}},
            "optimizer.warmup_ratio changes nothing",
        ),
        ({"parameters": {"optimizer.decay_ratio": RATE}}, "optimizer.decay_ratio changes nothing"),
        (
            {"parameters": {"epochs": {"type": "int", "low": 1, "high": 6, "step": 6}}},
            "step must be at most the range.* got step=6 from 1 to 6",
        ),
        (
            {"parameters": {"dropout": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.21}}},
            "step must be at most the range",
        ),
        *(
            ({"parameters": {"epochs": {"type": "categorical", "choices": twice}}}, message)
            for twice, message in (
                ([3, 3], "differ"),
                ([3, 3.0], "differ"),
                ([1, True], "one type"),
                ([1.0, True], "one type"),
            )
        ),
        (
            {
                "fixed": {"optimizer.schedule": "warmup_stable_decay"},
                "parameters": {
                    "optimizer.warmup_ratio": {"type": "float", "low": 0.0, "high": 0.6},
                    "optimizer.decay_ratio": {"type": "float", "low": 0.1, "high": 0.6},
                },
            },
            r"warmup_ratio=0\.6 and optimizer\.decay_ratio=0\.6 must be a training together, but .*narrow one",
        ),
        (
            {
                "parameters": {
                    "batch_size": SIZES,
                    "micro_batch_size": {"type": "categorical", "choices": [8, 16]},
                }
            },
            "micro_batch_size must divide batch_size=8, got 16",
        ),
        (
            {"parameters": {"model": {"type": "categorical", "choices": ["a"]}}},
            "no field of the fine-tuning recipe",
        ),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(**values)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"batch_size": [32]}, r"never be searched where batch_size is 32; batch_size is one of 8, 16"),
        ({"batch_size": [8, "16"]}, "where batch_size is '16'"),
        ({"batch_size": []}, "one of no values"),
        ({"epochs": [6]}, "where epochs is 6; epochs is a whole number from 1 to 5"),
        ({"epochs": [True]}, "where epochs is True"),
        ({"optimizer.learning_rate": [1e-5]}, "values have no end"),
        ({"batch_size": [16], "dropout": [0.1]}, "asks for different values of batch_size"),
    ],
)
def test_a_condition_that_never_holds_is_refused(conditions, message):
    parameters = {
        "batch_size": SIZES,
        "epochs": EPOCHS,
        "optimizer.learning_rate": RATE,
        "dropout": {"type": "categorical", "choices": [None, 0.1], "when": {"batch_size": [8]}},
        "patience_epochs": {**EPOCHS, "when": conditions},
    }
    with pytest.raises(ConfigError, match=f"patience_epochs .*{message}"):
        parse(parameters=parameters)


def test_what_is_not_searched_at_a_point_is_not_null_there():
    space = parse(
        parameters={
            "batch_size": SIZES,
            "dropout": {"type": "categorical", "choices": [None, 0.1], "when": {"batch_size": [8]}},
            "epochs": {**EPOCHS, "when": {"dropout": [None]}},
        }
    )
    for point in space.quasi_random(32):
        assert ("epochs" in point) == ("dropout" in point and point["dropout"] is None)


@pytest.mark.parametrize("value", [2, 7, 3.0, "3", None, True, [3], {"a": 3}, 10**400])
def test_a_first_trial_that_the_space_does_not_hold_is_a_sentence(value):
    with pytest.raises(ConfigError, match=r"a first trial has epochs=.* from 1 to 5 in steps of 2"):
        parse(parameters={"epochs": {**EPOCHS, "step": 2}}, first_trials=[{"epochs": value}])


def test_two_parameters_need_to_be_legal_together_only_where_both_are_searched():
    sizes = {"type": "categorical", "choices": [8, 12]}
    micro = {"type": "categorical", "choices": [4, 8], "when": {"batch_size": [8]}}
    assert parse(parameters={"batch_size": sizes, "micro_batch_size": micro}).epochs
    with pytest.raises(ConfigError, match="batch_size=12 and micro_batch_size=8 must be a training together"):
        parse(parameters={"batch_size": sizes, "micro_batch_size": {**micro, "when": {}}})


def test_a_range_with_its_end_on_the_step_is_one():
    assert parse(parameters={"dropout": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.2}}).parameters[
        "dropout"
    ].grid() == [0.1, 0.3]


def test_steps_are_counted_in_decimals():
    tenths = {"type": "float", "low": 0, "high": 0.3, "step": 0.1}
    parse(parameters={"dropout": tenths}, first_trials=[{"dropout": 0.3}, {"dropout": 0}])
    with pytest.raises(ConfigError, match=r"dropout=0\.25"):
        parse(parameters={"dropout": tenths}, first_trials=[{"dropout": 0.25}])


def test_a_range_of_many_steps_is_never_listed_and_optuna_takes_its_values():
    space = parse(parameters={"dropout": {"type": "float", "low": 0, "high": 0.5, "step": 1e-12}})
    points = space.quasi_random(4)
    assert all(0 <= point["dropout"] <= 0.5 for point in points)
    for point in points:
        optuna.trial.create_trial(value=0.5, params=point, distributions=space.distributions(point))


@pytest.mark.parametrize(
    "batch", [{"type": "int", "low": 4, "high": 32}, {"type": "float", "low": 4, "high": 40, "step": 1}]
)
def test_every_whole_number_of_a_range_is_legal_in_the_recipe(batch):
    with pytest.raises(ConfigError, match="micro_batch_size must divide batch_size=5, got 2"):
        parse(fixed={"micro_batch_size": 2}, parameters={"batch_size": batch})
    parse(fixed={"micro_batch_size": 2}, parameters={"batch_size": {**batch, "step": 4}})


def test_a_value_that_others_always_stand_in_place_of_is_nothing_to_search():
    ratio = {"optimizer.warmup_ratio": {"type": "float", "low": 0, "high": 0.2}}
    steps = {"type": "int", "low": 0, "high": 100}
    with pytest.raises(ConfigError, match=r"optimizer\.warmup_ratio changes nothing"):
        parse(parameters={"optimizer.warmup_steps": steps, **ratio})
    parse(parameters={"optimizer.warmup_steps": {"type": "categorical", "choices": [None, 100]}, **ratio})


POOLED = {
    "long_documents": {"type": "categorical", "choices": ["truncate", "pool"]},
    "stride_tokens": {"type": "categorical", "choices": [64, 128], "when": {"long_documents": ["pool"]}},
}


def test_a_parameter_is_searched_only_where_its_condition_holds():
    space = parse(parameters=POOLED, first_trials=[{"long_documents": "truncate"}])
    points = space.quasi_random(32)
    assert {point["long_documents"] for point in points} == {"truncate", "pool"}
    assert all(("stride_tokens" in point) == (point["long_documents"] == "pool") for point in points)
    with pytest.raises(ConfigError, match=r"every parameter once, .* with stride_tokens"):
        parse(parameters=POOLED, first_trials=[{"long_documents": "pool"}])
    with pytest.raises(ConfigError, match=r"every parameter once, .* with stride_tokens"):
        parse(parameters=POOLED, first_trials=[{"long_documents": "truncate", "stride_tokens": 64}])


@pytest.mark.parametrize(
    ("dimension", "ends"),
    [
        (RATE, (1e-5, 1e-4)),
        ({"type": "float", "low": 0.0, "high": 0.3, "step": 0.1}, (0.0, 0.3)),
        ({"type": "int", "low": 2, "high": 9}, (2, 9)),
        ({"type": "int", "low": 1, "high": 64, "log": True}, (1, 64)),
        ({"type": "categorical", "choices": [4, 8, 16]}, (4, 16)),
    ],
)
def test_shares_of_a_dimension_cover_it_from_end_to_end(dimension, ends):
    [found] = parse(
        parameters={"dropout": dimension}
        if dimension["type"] == "float" and dimension["low"] == 0
        else {"optimizer.learning_rate" if dimension is RATE else "batch_size": dimension}
    ).parameters.values()
    assert found.at(0.0) == pytest.approx(ends[0])
    assert found.at(1 - 1e-9) == pytest.approx(ends[1], rel=1e-6)
    values = [found.at(share / 100) for share in range(100)]
    assert values == sorted(values)
    for value in values:  # raises for what Optuna does not count as a value, such as three times 0.1
        create_trial(value=0.0, params={"x": value}, distributions={"x": found.distribution()})


def test_quasi_random_points_are_the_same_whatever_their_number():
    space = load_space(["tokens"])
    assert space.quasi_random(3, seed=1) == space.quasi_random(8, seed=1)[:3]
    assert space.quasi_random(3, seed=1) != space.quasi_random(3, seed=2)


def test_where_the_epochs_are_not_searched_a_trial_has_those_of_the_recipe():
    space = parse(parameters={"batch_size": SIZES, "epochs": {**EPOCHS, "high": 3, "when": {"batch_size": [8]}}})
    assert space.epochs == 6
    assert space.recipe("-", {"batch_size": 16}).epochs == 6


def test_several_base_models_are_one_more_dimension():
    space = load_space(["tokens"])
    several = space.with_models(2)
    assert list(several.parameters) == ["model", *space.parameters]
    assert [point["model"] for point in several.first_trials] == [0, 1]
    assert space.with_models(1) is space


def test_a_parameter_that_is_searched_is_not_fixed_by_the_shared_defaults():
    space = load_space(["i2b2_2010"])
    assert "epochs" in space.parameters
    assert "epochs" not in space.fixed
    assert space.fixed["patience_epochs"] == 3


def test_the_schema_that_editors_read_is_the_one_that_is_checked():
    shipped = json.loads((spaces_folder() / "schema.json").read_text())
    assert shipped == SearchSpace.model_json_schema(), "write it again: python -m clinscale.sweep.space"
    for path in spaces_folder().glob("*.yaml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n"), path.name


def test_every_paper_task_has_a_space_of_its_own():
    paper = ["mednli", "i2b2_2006", "i2b2_2010", "i2b2_2012", "i2b2_2014", "openi", "mimic_aki"]
    paper += ["emrqa_medication", "emrqa_relation", "emrqa_heart_disease"]
    assert {path.stem for path in spaces_folder().glob("*.yaml")} >= {
        *paper,
        "sequence",
        "pair",
        "tokens",
        "spans",
    }


@pytest.mark.parametrize("name", sorted(path.stem for path in spaces_folder().glob("[!_]*.yaml")))
def test_every_shipped_space_is_valid(name):
    space = load_space([name])
    assert space.first_trials, f"{name} starts from no published setting"


def test_a_space_is_found_by_task_then_by_kind(tmp_path):
    assert load_space(["demo_pairs", "pair"]) != load_space(["my_own_task", "pair"])
    with pytest.raises(ConfigError, match="no space for nothing"):
        load_space(["nothing"])
    own = tmp_path / "space.yaml"
    own.write_text(yaml.safe_dump({"parameters": {"optimizer.learning_rate": RATE}}))
    assert list(load_space(own).parameters) == ["optimizer.learning_rate"]
