"""`clinscale bench tables`: the README's tables, made from a record."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clinscale.bench.record import Ratio
from clinscale.bench.suite import Entry, SuiteRecord
from clinscale.errors import ConfigError

_BEGIN, _END = "<!-- table {name} -->", "<!-- end of table -->"
_Part = Literal["median", "error", "pooled"]
_MARKED = re.compile(r"<!-- table (\w+) -->\n(.*?)<!-- end of table -->\n", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """One figure or several of a record: `bench.ratio` each."""

    figures: tuple[str, ...]
    part: _Part = "median"
    """The shown part of a ratio: its median; its `error`, a share with its sign; or `pooled` with its interval."""


@dataclass(frozen=True)
class Table:
    """The head of a table and its rows of figures."""

    head: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]


def _both(longformer: str, bigbird: str) -> tuple[Cell, Cell]:
    return Cell(tuple(longformer.split())), Cell(tuple(bigbird.split()))


def _steps(bench: str, family: str, *layers: int) -> str:
    return " ".join(f"{bench}.{family}_step_{depth}_layers_fp32" for depth in layers)


def _by_stage(bench: str, ratio: str, part: _Part = "median") -> dict[str, tuple[Cell, ...]]:
    return {
        f"{workers} worker{'s' * (workers > 1)}, {precision}": tuple(
            Cell((f"{bench}{suffix}.{ratio.format(stage=stage, workers=workers)}",), part) for stage in range(4)
        )
        for precision, suffix in (("fp32", ""), ("bf16", "_bf16"))
        for workers in (1, 2, 4)
    }


_STAGES = ("", "ZeRO 0", "1", "2", "3")
TABLES: Mapping[str, Table] = {
    "attention": Table(
        ("", "Longformer", "BigBird"),
        {
            "attention module, forward and backward, fp32": _both(
                "attention.longformer_module_fp32", "attention.bigbird_module_fp32"
            ),
            "the same in bf16": _both("attention.longformer_module_bf16", "attention.bigbird_module_bf16"),
            "MLM head and loss, fp32": _both("attention.mlm_head_fp32", "attention.bigbird_mlm_head_fp32"),
            "whole MLM step of 2 layers / 12 layers, fp32": _both(
                _steps("step", "longformer", 2, 12), _steps("step", "bigbird", 2, 12)
            ),
            "bf16 step over Hugging Face's fp32 step, 12 layers": _both(
                "step.longformer_step_bf16_over_fp32", "step.bigbird_step_bf16_over_fp32"
            ),
            "peak memory of a step": _both("step.step_peak_memory", "step.bigbird_step_peak_memory"),
        },
    ),
    "pretraining": Table(
        ("", ""),
        {
            "step under Ray Train over the same loop under torchrun, in turns": (
                Cell(("pretrain.step_ray_train_over_torchrun",)),
            ),
            "one worker killed: until the next step, over a cold start": (
                Cell(("pretrain.recovery_over_cold_start",)),
            ),
            "stall of a blocking checkpoint over ours / share of training time every 500 steps, 12 layers": (
                Cell(("checkpoint.stall_blocking_over_ours", "checkpoint.share_of_training")),
            ),
            "corpus build over `run_mlm.py`'s maps, MB/s per core / with duplicates dropped": (
                Cell(("corpus.maps", "corpus.maps_duplicates_dropped")),
            ),
        },
    ),
    "zero": Table(_STAGES, _by_stage("zero", "zero_{stage}_workers_{workers}")),
    "plan_memory": Table(_STAGES, _by_stage("plan", "memory_zero_{stage}_workers_{workers}", "error")),
    "plan_steps": Table(
        ("", "fp32", "bf16"),
        {
            f"{label}, {rows} x {tokens:,} tokens": tuple(
                Cell((f"plan.step_{family}_{rows}x{tokens}_{precision}",), "error")
                for precision in ("fp32", "bf16")
            )
            for family, label in (("longformer", "Longformer"), ("bigbird", "BigBird"))
            for tokens in (1024, 4096)
            for rows in (1, 4)
        },
    ),
    "plan_anchors": Table(
        ("published by others", "the plan's error"),
        {
            label: (Cell((f"plan.{name}",), "error"),)
            for label, name in {
                "DeepSpeed's BERT-Large on one V100, 128 tokens": "bert_large_128_on_v100",
                "the same, 512 tokens": "bert_large_512_on_v100",
                "the same on 64 V100 over 16": "bert_large_on_64_v100_over_16",
                "256 over 16": "bert_large_on_256_v100_over_16",
                "1,024 over 16": "bert_large_on_1024_v100_over_16",
                "ModernBERT-base on 8 H100, compiled and unpadded": "modernbert_on_8_h100",
                "an encoder on one H200, its shape assumed": "encoder_on_h200",
                "the paper's Longformer on six V100, an upper bound": "paper_on_6_v100",
                "our Longformer step on an H200, to which one constant is fitted": "longformer_on_h200",
            }.items()
        },
    ),
    "loading": Table(
        ("", "reader over script, MB/s"),
        {
            label: (Cell((f"loading.{name}",)),)
            for label, name in {
                "CSV": "csv",
                "NOTEEVENTS, streamed": "noteevents",
                "JSON lines": "jsonl",
                "JSON": "json",
                "Parquet": "parquet",
                "Arrow": "arrow",
                "BIO": "bio",
                "brat": "brat",
                "i2b2 XML": "i2b2_xml",
                "SQuAD, offsets checked": "squad",
            }.items()
        },
    ),
    "search_regret": Table(
        ("", "2", "5", "10", "20"),
        {
            label: tuple(Cell((f"search.{method}_regret_{budget}",)) for budget in (2, 5, 10, 20))
            for label, method in {
                "ours": "ours",
                "ours, warm from the other tasks": "warm",
                "Ray's ASHA with OptunaSearch": "stock_asha",
                "top 2 after 4 %": "top_2",
                "random": "random",
            }.items()
        },
    ),
    "search": Table(
        ("", "over all tasks"),
        {
            label: (Cell((f"search.{name}",), "pooled"),)
            for label, name in {
                "Ray's ASHA / ours, to its regret after 5 trainings": "stock_5",
                "after 10": "stock_10",
                "after 20": "stock_20",
                "random / ours, to its regret after 20": "random_20",
                "top 2 after 4 % / ours, to one of the best settings": "top_2",
                "ours / ours, warm, to its regret after 10": "warm",
                "ours / ours with the best setting as prior": "good_prior",
                "ours / ours with the worst setting as prior": "wrong_prior",
            }.items()
        },
    ),
}
"""Tables by the name in their mark."""


def render(name: str, record: SuiteRecord) -> str:
    """The table in Markdown, without rows of which the record has nothing; a cell that it lacks is a dash.

    Raises:
        ConfigError: no table of that name.
    """
    if name not in TABLES:
        raise ConfigError(f"table must be one of {', '.join(TABLES)}, got {name!r}; correct the mark")
    table = TABLES[name]
    ratios = {
        f"{bench}.{key}": ratio
        for bench, entry in record.benches.items()
        for key, ratio in [*entry.ratios.items(), *_regrets(entry)]
    }
    rows = [
        [label, *(_shown(cell, ratios) for cell in cells)]
        for label, cells in table.rows.items()
        if any(figure in ratios for cell in cells for figure in cell.figures)
    ]
    return "".join(f"{_line(row)}\n" for row in [table.head, ["---"] * len(table.head), *rows])


def with_tables(text: str, record: SuiteRecord) -> str:
    """A page with the tables between its marks made anew; one of which the record has no figure stays as it is.

    Raises:
        ConfigError: a mark that names no table.
    """

    def made(found: re.Match[str]) -> str:
        table = render(found[1], record)
        return f"{_BEGIN.format(name=found[1])}\n{table}{_END}\n" if has_rows(table) else found[0]

    return _MARKED.sub(made, text)


def has_rows(table: str) -> bool:
    """Whether a rendered table is more than its head."""
    return table.count("\n") > 2


def marks(text: str) -> list[str]:
    """Names of the tables of a page."""
    return [found[1] for found in _MARKED.finditer(text)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _shown(cell: Cell, ratios: Mapping[str, Ratio]) -> str:
    return " / ".join(_figure(ratios.get(one), cell.part) for one in cell.figures)


def _figure(ratio: Ratio | None, part: _Part) -> str:
    if ratio is None or (part != "median" and ratio.more.get(part) is None):
        return "-"
    if part == "error":
        return f"{ratio.more['error']:+.0%}".replace("%", " %")
    if part == "pooled":
        pooled, low, high = (_number(ratio.more.get(name)) for name in ("pooled", "low", "high"))
        return f"{pooled} ({low} to {high})"
    return _number(ratio.median)


def _number(value: float | None) -> str:
    if value is None:
        return "∞"
    size = abs(value)
    places = 0 if size >= 10 else 1 if size >= 2 else 2
    return f"{value:.2g}" if size < 0.1 else f"{value:.{places}f}"


def _regrets(entry: Entry) -> Iterator[tuple[str, Ratio]]:
    """Mean regret of each search at each budget, which `bench search` has beside its ratios."""
    for method, budgets in (entry.answer or {}).get("details", {}).get("regret", {}).items():
        for budget, (mean, low, high) in budgets.items():
            yield f"{method}_regret_{budget}", Ratio(mean, low, high, None)
