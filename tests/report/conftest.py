"""A registry with a past, written through the registry's own doors with invented numbers."""

import json
import math
import random
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from clinscale import registry
from clinscale.finetune import OUTCOMES_BY_SEED_FILE, OUTCOMES_FILE
from clinscale.registry import Tag
from clinscale.tasks import Example, Outcomes, TaskConfig, estimate, kind_of

SPLITS = ("train", "dev", "test")

PYFUNC = """
import mlflow.models
import mlflow.pyfunc


class Nothing(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return []


mlflow.models.set_model(Nothing())
"""


class Past:
    """Writes pretrainings, sweeps and versions."""

    def __init__(self, tracking, folder: Path) -> None:
        self.tracking = tracking
        self._folder = folder
        self._code = folder / "nothing.py"
        self._code.write_text(PYFUNC)
        self._chance = random.Random(0)

    def version(self, run, name, tags, alias=None):
        """A version with weights that no other version has."""
        hf = self._folder / f"hf-{self._chance.random()}"
        hf.mkdir()
        (hf / "config.json").write_text(json.dumps({"model_type": "longformer"}))
        save_file({"weight": numpy.array([self._chance.random()])}, hf / "model.safetensors")
        return registry.register(
            self.tracking,
            run.id,
            hf,
            name=name,
            tags=tags,
            pyfunc=registry.Pyfunc(self._code, ("torch",)),
            alias=alias,
        )

    def pretraining(self, name, family, *, steps=200, start=2004.0, end=6.4):
        """A finished pretraining and its version."""
        tags = {Tag.KIND: "pretrain", Tag.NAME: name, Tag.SHARDS: "5f1c09ab77e2"}
        with self.run("clinscale-pretrain", name, tags, {"recipe": {"seed": 0}}) as run:
            for step in range(0, steps + 1, 5):
                share = 1 - math.exp(-4 * step / steps)
                loss = math.log(start) + (math.log(end) - math.log(start)) * share / (1 - math.exp(-4))
                noisy = loss + self._chance.gauss(0, 0.07)
                if step:
                    speed = {"perf/tokens_per_second": 18_250.0, "perf/training_s": 70.0 * step}
                    run.log({"train/loss": noisy, **speed}, step=step)
                if step % (steps // 8) == 0:
                    run.log({"eval/loss": loss, "eval/perplexity": math.exp(loss)}, step=step)
            tags = {Tag.KIND: "base", Tag.FAMILY: family, Tag.SHARDS: "5f1c09ab77e2"}
            return self.version(run, name, tags, alias="champion")

    def sweep(self, name, task, kind, metric, family, base, *, trials=12, trivial=0.35, top=0.9, failed=()):
        """A finished sweep, its trials and its registered winner."""
        tags = {Tag.KIND: "sweep", Tag.NAME: name, Tag.TASK: task, Tag.TASK_KIND: kind, Tag.METRIC: metric}
        with self.run("clinscale-sweep", name, tags, {}) as run:
            scores = {}
            for number in range(trials):
                value = (
                    None
                    if number in failed
                    else self._trial(run, f"{name}-{number}", task, metric, base, trivial, top)
                )
                if value is not None:
                    scores[value[1]] = value[0]
                else:
                    self._failed_trial(run, f"{name}-{number}", base)
            winner = max(scores, key=scores.__getitem__)
            value = scores[winner] - 0.013
            run.set_tags({Tag.WINNER_RUN: winner, Tag.TRIALS: str(trials)})
            run.log({f"test/{task}/{metric}": value, f"trivial/{task}/{metric}": trivial})
            tags |= {Tag.KIND: "task", Tag.FAMILY: family, Tag.VALUE: repr(value), Tag.TRIVIAL: repr(trivial)}
            tags |= {Tag.TRIALS: str(trials), Tag.BASE: base, Tag.DATA: "9a40d1c3be55"}
            return self.version(run, task, tags)

    def judged(
        self,
        name,
        max_tokens,
        hits,
        *,
        task="demo",
        dev=None,
        texts=None,
        others=(),
        tags=None,
        linear=None,
        metric="accuracy",
        no=(),
    ):
        """A single fine-tuning that was right on the test examples where `hits` says so; `others` are of more seeds.

        With `tags`, those of a study's cell, it is a search of a league table. Examples numbered in `no` have the other
        label.
        """
        config = TaskConfig.parse(
            {
                "name": task,
                "kind": "sequence",
                "format": "records",
                "metric": metric,
                "splits": dict.fromkeys(SPLITS, "a"),
            },
            source="test",
        )
        texts = texts or [f"word {number} " * (100 + 40 * number) for number in range(len(hits))]
        examples = [
            Example(str(number), text, labels=("no" if number in no else "yes",))
            for number, text in enumerate(texts)
        ]

        def judge(hits):
            sure = [0.8 if hit else 0.3 for hit in hits]
            answers = [{"scores": {"no": 1 - p, "yes": p}} for p in sure]
            return Outcomes.of(kind_of(config), examples, answers, ("no", "yes"), lambda text: len(text.split()))

        outcomes = judge(hits)
        kind = {Tag.KIND: "sweep" if tags else "finetune", Tag.DATA: "9a40d1c3be55", **(tags or {})}
        tags = {Tag.NAME: name, Tag.TASK: task, Tag.METRIC: metric, Tag.MAX_TOKENS: str(max_tokens), **kind}
        with self.run("clinscale-finetune", name, tags, {}) as run:
            run.log_json(OUTCOMES_FILE, outcomes.plain())
            run.log_json(OUTCOMES_BY_SEED_FILE, [judge(one).plain() for one in others])
            value = estimate(outcomes)
            key = f"test/{task}/{metric}"
            if not math.isnan(value.value):
                run.log({key: value.value, f"{key}_low": value.low, f"{key}_high": value.high})
                run.log({f"dev/{task}/{metric}": dev or value.value})
            run.log({f"trivial/{task}/{metric}": 0.5})
            if linear is not None:
                run.log({f"linear/{task}/{metric}": linear})

    def run(self, experiment, name, tags, params, parent=None):
        return registry.start_run(
            self.tracking, experiment=experiment, name=name, tags=tags, params=params, parent=parent
        )

    def _trial(self, parent, name, task, metric, base, trivial, top):
        params = self._params(base)
        rate = float(params["learning_rate"])
        reach = trivial + (top - trivial) * math.exp(-((math.log10(rate) + 4.3) ** 2)) * self._chance.uniform(
            0.86, 1
        )
        epochs = self._chance.choice([1, 2, 4, 4])
        with self.run("clinscale-sweep", name, {Tag.KIND: "trial"}, params, parent.id) as run:
            for epoch in range(1, epochs + 1):
                score = trivial + (reach - trivial) * (1 - math.exp(-1.3 * epoch))
                run.log({"train/loss": 1 / epoch, f"eval/{task}/{metric}": score, "epoch": epoch}, step=20 * epoch)
        return score, run.id

    def _failed_trial(self, parent, name, base):
        self.run("clinscale-sweep", name, {Tag.KIND: "trial"}, self._params(base), parent.id).end("FAILED")

    def _params(self, base):
        return {
            "learning_rate": 10 ** self._chance.uniform(-5.5, -3),
            "batch_size": self._chance.choice([4, 8, 16]),
            "dropout": self._chance.choice([0.0, 0.1]),
            "warmup_share": round(self._chance.uniform(0, 0.2), 3),
            "epochs": 4,
            "max_tokens": 1024,
            "model": base,
        }


@pytest.fixture
def past(tracking, tmp_path):
    return Past(tracking, tmp_path)
