"""Averages of weights: what is in them, and that the development split decides."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch

from clinscale.finetune import FinetuneRecipe, finetune, greedy_soup
from clinscale.finetune.soup import Mean
from clinscale.predict import load_predictor
from clinscale.tasks import load_task, read_task


def recipe(model, **changes):
    values = {"model": model, "max_tokens": 64, "epochs": 3, "batch_size": 8, "dropout": 0.0}
    return FinetuneRecipe.parse(values | {"optimizer": {"learning_rate": 2e-3}} | changes, source="test")


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_a_mean_is_that_of_all_and_leaves_whole_numbers_alone():
    states = [{"w": torch.tensor([float(n), 2.0 * n]), "position": torch.tensor([n])} for n in (1, 2, 6)]
    mean = Mean()
    for state in states:
        mean = mean.plus(state)
    assert mean.count == 3
    assert mean.weights["w"].tolist() == [3.0, 6.0]
    assert mean.weights["position"].tolist() == [6]
    states[0]["w"].zero_()
    assert Mean().plus(states[1]).weights["w"] is not states[1]["w"], "training goes on in the same tensors"


@pytest.fixture(scope="module")
def trained(demo_data, base_models, tmp_path_factory):
    """The data, and the folder and checkpoints by epoch of a fine-tuning that was interrupted in its second half."""
    data = read_task(load_task("demo_pairs"), str(demo_data))
    place, states = tmp_path_factory.mktemp("soup"), []

    class Interrupted(Exception):
        pass

    def on_epoch(metrics):
        states.append(torch.load(place / "s.pt", weights_only=True)["engine"]["model"])
        if len(states) == 2:
            raise Interrupted

    asked = recipe(base_models["longformer"])
    options = {"on_epoch": on_epoch, "checkpoint": place / "s.pt", "average": place / "average"}
    with pytest.raises(Interrupted):
        finetune(asked, data, place / "a" / "hf", **options)
    assert not (place / "average").exists()
    states.clear()
    options["on_epoch"] = lambda metrics: states.append(
        torch.load(place / "s.pt", weights_only=True)["engine"]["model"] if metrics["epoch"] > 2 else None
    )
    return asked, data, place, states, options


def test_the_average_is_that_of_the_epochs_of_the_second_half_whatever_interrupted_them(trained):
    asked, data, place, states, options = trained
    second = torch.load(place / "s.pt", weights_only=True)["engine"]["model"]
    finetune(asked, data, place / "a" / "hf", **options)
    found = weights(place / "average")
    for name, value in found.items():
        assert torch.allclose(value, (second[name] + states[-1][name]) / 2, atol=1e-6), name
    assert load_predictor(place / "average").card.max_tokens == 64
    (place / "again").mkdir()
    options["average"] = place / "again" / "average"  # as if it had been killed before it was written
    finetune(asked, data, place / "a" / "hf", **options)
    assert all(torch.equal(value, found[name]) for name, value in weights(place / "again" / "average").items())


def test_a_soup_takes_only_what_makes_it_no_worse_and_says_what_it_is_worth(trained, base_models, tmp_path):
    _, data, place, *_ = trained
    first = place / "a" / "hf"
    for name, changes in (("b", {"optimizer": {"learning_rate": 1e-3}}), ("c", {"max_tokens": 32})):
        other = recipe(base_models["longformer"], **changes | {"epochs": 1})
        finetune(other, data, tmp_path / name / "hf")
    ruined = tmp_path / "ruined" / "hf"
    finetune(recipe(base_models["longformer"], epochs=1, seed=5), data, ruined)
    model = load_predictor(ruined).model
    state = {name: -5 * value if "classifier" in name else value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    model.save_pretrained(ruined)
    gone, narrow, same = tmp_path / "gone" / "hf", tmp_path / "c" / "hf", first
    soup = greedy_soup([first, gone, narrow, same, tmp_path / "b" / "hf", ruined], data, tmp_path / "soup" / "hf")
    assert soup.members[:2] == (first, same), (
        "itself makes it no worse; what is gone or answers otherwise is left out"
    )
    assert not {gone, narrow}.intersection(soup.members)
    assert soup.dev >= soup.alone == load_predictor(first).score(data.splits["dev"])["accuracy"]
    assert load_predictor(soup.folder).score(data.splits["dev"])["accuracy"] == soup.dev
    blind = replace(data, splits={**data.splits, "test": ()})
    assert greedy_soup([first, gone], blind, tmp_path / "none" / "hf") is None
    assert not (tmp_path / "none").exists()
