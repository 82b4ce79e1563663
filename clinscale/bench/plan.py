"""`clinscale bench plan`: what the planner says beside what was measured here and published elsewhere."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clinscale import models
from clinscale.bench.encoders import MASKED_SHARE, model_of
from clinscale.bench.measure import ratio, surroundings
from clinscale.bench.plan_steps import timed_steps, why_not_timed
from clinscale.bench.record import BenchRecord, OnRatio, Ratios, say_nothing
from clinscale.bench.zero import measured_ranks
from clinscale.engine import Precision, load_hardware
from clinscale.plan import ModelFacts, RankSetup, StepSetup, network_of, rank_memory, rates_of, step_time

_ASKED_MEMORY, _ASKED_STEP = 1.1, 1.2


@dataclass(frozen=True)
class Anchor:
    """A figure that somebody measured, and what the planner says in its place."""

    name: str
    unit: str
    published: float
    planned: float
    source: str
    remark: str = ""
    is_fitted: bool = False
    """Whether a constant of the planner was set by this row, which then is no test of it."""

    @property
    def error(self) -> float:
        """Share by which the plan is above (or, negative, below) what was published."""
        return self.planned / self.published - 1


def bench_plan(
    *,
    layers: int,
    hidden_size: int,
    tokens: int,
    stages: Sequence[int],
    num_workers: Sequence[int],
    precision: Precision,
    step_precisions: Sequence[Precision] = ("fp32", "bf16"),
    step_tokens: Sequence[int] = (1024, 4096),
    step_rows: Sequence[int] = (1, 4),
    repeats: int = 3,
    on_progress: Callable[[str], None],
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """Memory of each rank, steps, and speed at public anchors: what is planned over what was measured.

    Ranks are processes on this machine; compared is the most that their tensors hold within a step. Steps are those of
    one worker, both families, planned from a probe of this machine (`timed_steps`); a precision that the processor has
    not is left out, and `details` says so. A ratio is the larger of planned and measured or published over the smaller,
    and `error` beside it the share by which the plan is above; no constant is set by any anchor but the one that says
    so.

    Raises:
        ClinscaleError: a rank failed.
    """
    before = surroundings("plan", "cpu")
    ratios = Ratios(on_ratio)
    shape = {"layers": layers, "hidden_size": hidden_size}
    memory = [
        _memory(stage, workers, precision, shape, tokens, ratios, on_progress)
        for workers in num_workers
        for stage in stages
    ]
    asked = {one: why_not_timed(one) for one in step_precisions}
    steps: list[dict[str, Any]] = []
    for of_steps in (one for one, why_not in asked.items() if why_not is None):
        for step in timed_steps(
            shape, tokens=step_tokens, rows=step_rows, precision=of_steps, repeats=repeats, on_progress=on_progress
        ):
            off_by = [_off_by(step.planned_s, measured_s) for measured_s in step.measured_s]
            ratios[step.name] = ratio(off_by, _ASKED_STEP, error=step.error)
            steps.append({**asdict(step), "error": step.error})
    found_anchors = anchors()
    for anchor in found_anchors:
        ratios[anchor.name] = ratio([_off_by(anchor.planned, anchor.published)], None, error=anchor.error)
    return BenchRecord(
        surroundings=before,
        ratios=ratios,
        at_most=tuple(ratios),
        details={
            "memory": memory,
            "steps": steps,
            "steps_left_out": {one: why_not for one, why_not in asked.items() if why_not},
            **shape,
            "tokens": tokens,
            "precision": precision,
            "anchors": [{**asdict(anchor), "error": anchor.error} for anchor in found_anchors],
        },
    )


def _memory(
    stage: int,
    workers: int,
    precision: Precision,
    shape: dict[str, Any],
    tokens: int,
    ratios: Ratios,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Most that the tensors of each rank hold, measured and planned; its ratio goes into `ratios`."""
    on_progress(f"ZeRO {stage}, {workers} workers")
    facts = ModelFacts.of(model_of("longformer", "hf", tokens=tokens, dropout=0.0, **shape).config)
    found = measured_ranks(stage, workers, precision, shape, tokens=tokens)
    setup = RankSetup(
        stage=stage,
        workers=workers,
        precision=precision,
        micro_rows=1,
        row_tokens=tokens,
        mask_share=MASKED_SHARE,
    )
    planned = rank_memory(facts, setup)
    tensors = planned.total - planned.slack
    off_by = [_off_by(tensors, measured) for measured in found["peak_bytes"]]
    error = tensors / statistics.median(found["peak_bytes"]) - 1
    ratios[f"memory_zero_{stage}_workers_{workers}"] = ratio(off_by, _ASKED_MEMORY, error=error)
    return {"stage": stage, "workers": workers, "peak_bytes": found["peak_bytes"], "planned": planned.plain()}


def anchors() -> tuple[Anchor, ...]:
    """Figures that others measured, and we before, each beside the planner's."""
    deepspeed = "deepspeed.ai, fastest BERT training, 2020-05-28"
    fused = "DeepSpeed's fused kernels move less than is counted here"
    bert = StepSetup(row_tokens=128, rows=64, micro_rows=64, workers=1, precision="fp16", mask_share=0.15)
    bert_512 = replace(bert, row_tokens=512, rows=8, micro_rows=8)
    paper = replace(bert, row_tokens=4096, rows=18, micro_rows=3, workers=6, mask_share=1.0, stage=0)
    ours = replace(bert_512, row_tokens=4096, precision="bf16", stage=0, autocast=True)
    one_h200 = replace(ours, row_tokens=1024, rows=96, micro_rows=96, mask_share=0.3)
    modernbert = replace(one_h200, rows=8 * 96, workers=8)
    large, base = _bert_large(), ModelFacts.of(models.shape_of(models.ModelConfig(family="longformer")))
    modern = ModelFacts.of(models.shape_of(models.ModelConfig(family="modernbert")))
    hf = ModelFacts.of(base.config, attention="hf", attention_dropout=0.1)
    without_dropout = ModelFacts.of(_changed(base, hidden_dropout_prob=0.0))
    whole = _hours(large, bert, 16)
    return (
        Anchor(
            "bert_large_128_on_v100", "rows/s", 272, _tokens_per_s(large, bert, "v100") / 128, deepspeed, fused
        ),
        Anchor(
            "bert_large_512_on_v100",
            "rows/s",
            52,
            _tokens_per_s(large, bert_512, "v100") / 512,
            deepspeed,
            f"{fused}; scores of dense attention are not counted",
        ),
        Anchor(
            "longformer_on_h200",
            "tokens/s",
            398_600,
            _tokens_per_s(without_dropout, ours, "h200"),
            "clinscale bench step on one H200, clinscale/bench/README.md",
            is_fitted=True,
        ),
        Anchor(
            "modernbert_on_8_h100",
            "tokens/s a GPU",
            304_000,
            _tokens_per_s(modern, modernbert, "h100") / 8,
            "AnswerDotAI/ModernBERT#236, 2025-05: 1.7 T tokens in 194 h",
            "compiled and unpadded, which moves less than is counted here",
        ),
        Anchor(
            "encoder_on_h200",
            "tokens/s",
            327_680,
            _tokens_per_s(modern, one_h200, "h200"),
            "reported to this project, 2026",
            "its shape is not published: ModernBERT-base at 1,024 tokens is assumed",
        ),
        Anchor(
            "paper_on_6_v100",
            "tokens/s a GPU, at most",
            2_032,
            _tokens_per_s(hf, paper, "v100") / 6,
            "model card of Clinical-Longformer: 200,000 steps in more than 14 days",
            "an upper bound; neither arithmetic nor bandwidth explains a run this slow",
        ),
        *(
            Anchor(
                f"bert_large_on_{workers}_v100_over_16",
                "times as fast",
                33.22 / hours,
                whole / _hours(large, bert, workers),
                "deepspeed.ai, training, 2020-05: 33.22, 8.68, 2.4 h and 44 min",
                "batches of 65,536 rows of 128 tokens throughout; DGX-2 nodes of 16 with 8 EDR ports",
            )
            for workers, hours in ((64, 8.68), (256, 2.4), (1024, 44 / 60))
        ),
    )


def _off_by(planned: float, measured: float) -> float:
    return max(planned / measured, measured / planned)


def _bert_large() -> ModelFacts:
    """BERT-Large by Longformer's arithmetic, whose window is as long as the rows: every token sees every other."""
    overrides = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    config = models.ModelConfig(max_tokens=512, hf_overrides=overrides | {"attention_window": 1024})
    return ModelFacts.of(models.shape_of(config, vocab_size=30522))


def _changed(facts: ModelFacts, **fields: Any) -> Any:
    family = models.pretrainable_family(facts.config.model_type)
    return family.described({**vars(facts.config), **fields})


def _tokens_per_s(facts: ModelFacts, setup: StepSetup, device: str) -> float:
    hardware = load_hardware()
    known = hardware.device(device)
    network = network_of(hardware, known, between="infiniband-edr", devices_per_node=16, ports_per_node=8)
    time = step_time(facts, setup, rates_of(known, setup.precision), network)
    return setup.rows * setup.row_tokens / time.total_s


def _hours(facts: ModelFacts, setup: StepSetup, workers: int) -> float:
    """Relative time of a batch of 65,536 rows."""
    whole = replace(setup, rows=65_536, workers=workers, micro_rows=64)
    return whole.rows * whole.row_tokens / _tokens_per_s(facts, whole, "v100")
