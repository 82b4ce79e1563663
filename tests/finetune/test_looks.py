"""Looks inside the first epoch: where they come, who judges them, and that they change nothing."""

from collections import Counter
from dataclasses import replace

import pytest

from clinscale.finetune import FinetuneRecipe, Looks, finetune, look_part
from clinscale.storage import sha256
from clinscale.tasks import load_task, read_task
from clinscale.units import Duration


@pytest.fixture(scope="module")
def pairs(demo_data):
    return read_task(load_task("demo_pairs"), str(demo_data))


def recipe(model, **changes):
    values = {"model": model, "max_tokens": 64, "epochs": 1, "batch_size": 8, "dropout": 0.1}
    return FinetuneRecipe.parse(values | {"optimizer": {"learning_rate": 2e-3}} | changes, source="test")


def at(*texts):
    return tuple(map(Duration.parse, texts))


@pytest.mark.parametrize(
    ("places", "steps_per_epoch", "steps"),
    [
        (("0.1epochs", "0.3epochs"), 100, {10: 0, 30: 1}),
        (("10steps", "30steps", "90steps"), 50, {10: 0, 30: 1}),
        (("0.1epochs", "0.3epochs"), 3, {1: 0}),  # both are the first step, which is judged once
        (("0.5epochs",), 1, {}),  # the only step is the epoch
    ],
)
def test_a_look_is_a_whole_step_inside_the_epoch(places, steps_per_epoch, steps):
    looks = Looks(at(*places), (0,))
    assert looks.steps(steps_per_epoch) == steps
    known = replace(looks, known=1)
    assert known.following(1, steps_per_epoch) == next(((s, p) for s, p in steps.items() if p), None)


def many(pairs, count):
    """A development split of so many examples, one in ten of them of a rare label."""
    first = pairs.splits["dev"][0]
    rare = ["rare" if number % 10 == 0 else ("a", "b")[number % 2] for number in range(count)]
    dev = tuple(replace(first, id=str(number), labels=(label,)) for number, label in enumerate(rare))
    return replace(pairs, splits={**pairs.splits, "dev": dev})


def test_the_part_that_judges_is_as_large_as_its_cost_allows_and_has_every_label_in_its_share(pairs):
    data = many(pairs, 1000)
    part = look_part(data, trained_examples=1000)
    assert len(part) == len(set(part)) == 120, "a forward pass is a third of training; 5 % of 1,000, less overhead"
    labels = Counter(data.splits["dev"][place].labels[0] for place in part)
    assert labels == {"b": 60, "a": 48, "rare": 12}
    assert look_part(data, trained_examples=1000) == part
    few = look_part(data, trained_examples=1)
    assert len(few) == 8
    assert {data.splits["dev"][place].labels[0] for place in few} == {"a", "b", "rare"}
    assert look_part(many(pairs, 5), trained_examples=1000) == (0, 1, 2, 3, 4)


def test_looks_change_nothing_and_one_that_was_interrupted_at_each_ends_the_same(pairs, base_models, tmp_path):
    class Interrupted(Exception):
        pass

    asked, seen, whole = recipe(base_models["longformer"]), [], []
    quiet = finetune(asked, pairs, tmp_path / "quiet", on_epoch=whole.append)
    looks = Looks(at("0.25epochs", "0.5epochs"), look_part(pairs, trained_examples=15))

    def stop(metrics):
        seen.append(metrics)
        raise Interrupted

    for known in (
        0,
        0,
        1,
    ):  # the second start has not heard of the first look: it is judged again, not trained again
        told = replace(looks, known=known)
        with pytest.raises(Interrupted):
            finetune(asked, pairs, tmp_path / "hf", on_epoch=stop, checkpoint=tmp_path / "s.pt", looks=told)
    assert not (tmp_path / "hf").exists(), "the best weights are those of a whole epoch"
    again = []
    told = replace(looks, known=2)
    result = finetune(
        asked, pairs, tmp_path / "hf", on_epoch=again.append, checkpoint=tmp_path / "s.pt", looks=told
    )
    steps = -(-len(pairs.splits["train"]) // 8)
    assert [one["step"] for one in seen] == [round(steps / 4), round(steps / 4), round(steps / 2)]
    assert seen[0]["look/demo_pairs/accuracy"] == seen[1]["look/demo_pairs/accuracy"]
    assert seen[0]["train/loss"] == seen[1]["train/loss"] != seen[2]["train/loss"]
    assert not any(key.startswith("eval/") for one in seen for key in one), "a part is not taken for the split"
    for key in ("epoch", "step", "train/loss", "eval/demo_pairs/accuracy"):
        assert again[-1][key] == whole[-1][key]
    assert sha256(result.folder / "model.safetensors") == sha256(quiet.folder / "model.safetensors")


def test_a_look_whose_metric_is_not_defined_has_no_score_and_training_goes_on(demo_data, base_models, tmp_path):
    ranked = read_task(load_task("demo_pairs", {"metric": "roc_auc"}), str(demo_data))
    first = ranked.splits["dev"][0].labels
    alike = tuple(place for place, one in enumerate(ranked.splits["dev"]) if one.labels == first)
    reports, looks = [], Looks(at("0.25epochs"), alike)
    finetune(recipe(base_models["longformer"]), ranked, tmp_path / "hf", on_epoch=reports.append, looks=looks)
    assert [one["epoch"] for one in reports] == [pytest.approx(0.25), 1]
    assert not any(key.startswith("look/demo_pairs") for key in reports[0])
