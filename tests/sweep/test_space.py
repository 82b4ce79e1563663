"""Search spaces: every mistake is found before a trial starts."""

import optuna.distributions
import pytest
import yaml

from clinscale.errors import ConfigError
from clinscale.sweep import SearchSpace, load_space
from clinscale.sweep.space import spaces_folder

RATE = {"type": "float", "low": 1e-5, "high": 1e-4, "log": True}


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
    assert space.distributions() == {
        "optimizer.learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-4, log=True),
        "epochs": optuna.distributions.IntDistribution(2, 6),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parameters": {"optimizer.learning_rate": {**RATE, "low": 1.0}}}, "low must not exceed high"),
        ({"parameters": {"optimizer.learning_rat": RATE}}, r"did you mean optimizer\.learning_rate"),
        ({"parameters": {"optimizer.learning_rate": {**RATE, "logg": True}}}, "did you mean log"),
        ({"parameters": {}}, "at least one entry"),
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
            {"parameters": {"model": {"type": "categorical", "choices": ["a"]}}},
            "no field of the fine-tuning recipe",
        ),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(**values)


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
