"""Damaged files: whatever becomes of one, it is read, or refused by an error of ours that tells no word of it.

Inputs are a function of their seed. They are read in child processes with limits of time and memory: a file that kills
its reader is seen, and reported by its seed. `python tests/test_mutations.py BEGIN END` runs some by hand.
"""

import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from clinscale.errors import ClinscaleError

NOTE_WORDS = ("Quokkabert", "zylophantic", "Möbelwagen", "thrumpled", "grebeldine")
"""Words that stand nowhere but in the notes."""

LIMIT_S = 5
"""For one input of a few hundred bytes, on a machine that is busy otherwise."""
LIMIT_BYTES = 6 * 2**30
"""Of addresses, of which libraries take some gigabytes before anything is read."""


class Target(NamedTuple):
    """Files of one kind and what reads them."""

    files: dict[str, bytes]
    read: Callable[[Path], object]


def _note(number: int) -> str:
    return f"Quokkabert {number} was zylophantic, the Möbelwagen thrumpled on grebeldine {number * 7}."


def _task_target(kind: str, file_format: str, files: dict[str, bytes], splits: str, **fields) -> Target:
    from clinscale.tasks import Findings, TaskConfig, read_task

    values = {"name": "t", "kind": kind, "format": file_format, "splits": {"all": splits}, **fields}
    task = TaskConfig.parse({"split_ratios": (0.5, 0.25, 0.25), **values}, source="test")

    def read(folder: Path) -> object:
        for on_error in ("skip", "raise"):
            findings = Findings(on_error)
            try:
                read_task(task, str(folder), findings=findings)
            finally:
                told = json.dumps(
                    [findings.places, findings.rejected, findings.repaired, findings.remarks, findings.found]
                )
                assert not _words_in(told), "the findings tell words of the notes"
        return None

    return Target(files, read)


def _targets() -> dict[str, Target]:
    rows = [{"id": f"n{n}", "text": _note(n), "label": "ab"[n % 2]} for n in range(8)]
    return {**_tables(rows), **_annotations(rows), **_settings()}


def _tables(rows: list[dict[str, str]]) -> dict[str, Target]:
    import io

    import pyarrow
    import pyarrow.parquet

    table, parquet, arrow = pyarrow.Table.from_pylist(rows), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    written = {
        "csv": "\n".join(["id,text,label", *(f'{r["id"]},"{r["text"]}",{r["label"]}' for r in rows)]).encode(),
        "tsv": "\n".join(["id\ttext\tlabel", *("\t".join(r.values()) for r in rows)]).encode(),
        "json": json.dumps(rows, indent=1).encode(),
        "jsonl": "\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode(),
        "parquet": parquet.getvalue(),
        "arrow": arrow.getvalue(),
    }
    return {
        suffix: _task_target("sequence", "records", {f"n.{suffix}": raw}, f"n.{suffix}", columns={"id": "id"})
        for suffix, raw in written.items()
    }


def _annotations(rows: list[dict[str, str]]) -> dict[str, Target]:
    texts = [row["text"] for row in rows]
    bio = "\n\n".join(
        "\n".join(f"{w}\t{'B-X' if at % 3 == 1 else 'O'}" for at, w in enumerate(t.split())) for t in texts
    )
    marks = [{"start": 0, "end": 10, "label": "X", "text": "Quokkabert"}]
    answer = {"text": ["Quokkabert"], "answer_start": [0]}
    squad = [
        {
            "context": t,
            "qas": [
                {"id": f"q{n}", "question": f"Who {n}?", "answers": [{"text": "Quokkabert", "answer_start": 0}]}
            ],
        }
        for n, t in enumerate(texts)
    ]
    brat, xml = {}, {}
    for n, text in enumerate(texts):
        brat |= {f"d/{n}.txt": text.encode(), f"d/{n}.ann": b"T1\tX 0 10\tQuokkabert\nT2\tX 0 4;6 10\tQuok bert\n"}
        tag = '<X id="P0" start="0" end="10" text="Quokkabert" TYPE="X" comment=""/>'
        xml[f"x/{n}.xml"] = f"<r><TEXT><![CDATA[{text}]]></TEXT><TAGS>{tag}</TAGS></r>".encode()
    links = b"T3\tY 13 16\twas\nE1\tX:T1\nR1\tto Arg1:E1 Arg2:T3\n*\tas T1 T3\n"
    related = {name: raw + links if name.endswith(".ann") else raw for name, raw in brat.items()}
    tokens = [{"words": t.split(), "tags": ["B-X", *["O"] * (len(t.split()) - 1)]} for t in texts]

    def lines(values: list[dict]) -> bytes:
        return "\n".join(json.dumps(value) for value in values).encode()

    marked = lines([{"text": t, "marks": marks} for t in texts])
    asked = lines([{"text": t, "question": "Who?", "answers": answer} for t in texts])
    columns = {"text_pair": "question"}
    return {
        "bio": _task_target("tokens", "bio", {"n.tsv": bio.encode()}, "n.tsv"),
        "brat": _task_target("tokens", "brat", brat, "d"),
        "relations": _task_target("relations", "brat", related, "d"),
        "i2b2_xml": _task_target("tokens", "i2b2_xml", xml, "x"),
        "squad": _task_target(
            "spans", "squad", {"n.json": json.dumps({"data": [{"paragraphs": squad}]}).encode()}, "n.json"
        ),
        "words": _task_target(
            "tokens", "records", {"n.jsonl": lines(tokens)}, "n.jsonl", columns={"tokens": "words", "tags": "tags"}
        ),
        "marks": _task_target("tokens", "records", {"n.jsonl": marked}, "n.jsonl", columns={"entities": "marks"}),
        "answers": _task_target("spans", "records", {"n.jsonl": asked}, "n.jsonl", columns=columns),
    }


def _settings() -> dict[str, Target]:
    from clinscale.corpus import open_shards
    from clinscale.launch import check
    from clinscale.predict import TaskCard
    from clinscale.pretrain import PretrainConfig
    from clinscale.registry.lock import read_lock
    from clinscale.sweep import load_space
    from clinscale.sweep.ledger import Epoch, Ledger, Trial
    from clinscale.tasks import load_task

    task = (
        "name: t\nkind: sequence\nformat: records\nsplits: {all: n.csv}\nsplit_ratios: [0.5, 0.25, 0.25]\n"
        "columns: {id: id, text: [text, more]}\nlabel_map: {no: absent, x: null}\nlabels: [absent, present]\nseed: 3\n"
    )
    space = (
        "fixed: {max_tokens: 64}\nparameters:\n  epochs: {type: int, low: 1, high: 5, step: 2}\n"
        "  optimizer.learning_rate: {type: float, low: 1e-5, high: 1e-4, log: true}\n"
        "  batch_size: {type: categorical, choices: [8, 16], when: {epochs: [1, 3]}}\n"
        "first_trials:\n  - {epochs: 3, optimizer.learning_rate: 5e-5, batch_size: 8}\n"
    )
    pretrain = (
        "name: lf\nrecipe: {shards: s, duration: 200steps, model: {size: tiny, hf_overrides: {hidden_size: 64}}}\n"
    )
    digest = "0123456789abcdef" * 4
    lock = f"format: 1\nmodels:\n  m@champion: {{registry: here, name: m, version: 3, digest: {digest}}}\n"
    card = {
        "task": {
            "name": "t",
            "kind": "sequence",
            "format": "records",
            "splits": {"train": "a", "dev": "b", "test": "c"},
        }
    }
    card |= {"labels": ["a", "b"], "max_tokens": 64, "stride_tokens": 8}
    launch = "cluster_name: c\nprovider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}\n"
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        trial = ledger.start(Trial(0, 0, {"batch_size": 8}, "first", 0))
        ledger.report(trial, Epoch(1, 0.5, 2.0, {"eval/x": 0.5}))
        ledger.end(trial, "complete")
        ledger.close()
        events = (Path(folder) / "ledger.jsonl").read_bytes()
    ids = {"cls": 0, "sep": 2, "pad": 1, "mask": 4, "all": [0, 1, 2, 3, 4], "vocab_size": 500}
    side = {"documents": 2, "tokens": 9, "files": [], "lengths_sha256": "0"}
    manifest = {"recipe": {"seed": 1}, "sources": ["n.csv"], "tokenizer_fingerprint": "a", "dtype": "uint16"}
    manifest |= {
        "splits": {"train": side, "validation": side},
        "left_out": {"empty": 1},
        "leakage": {"t": {"found": 0}},
    }
    manifest |= {"document_tokens": {"mean": 4.5}, "share_cut_at": {"512": 0.0}, "special": ids}
    return {
        "task": Target({"t.yaml": task.encode()}, lambda at: load_task(str(at / "t.yaml"))),
        "space": Target({"s.yaml": space.encode()}, lambda at: load_space(str(at / "s.yaml")).quasi_random(2)),
        "config": Target(
            {"p.yaml": pretrain.encode()}, lambda at: PretrainConfig.load(at / "p.yaml").fingerprint()
        ),
        "lock": Target({"models.lock": lock.encode()}, lambda at: read_lock(at / "models.lock")),
        "card": Target({"task_card.json": json.dumps(card).encode()}, lambda at: TaskCard.read(at)),
        "launch": Target({"c.yaml": launch.encode()}, lambda at: check(at / "c.yaml")),
        "ledger": Target({"ledger.jsonl": events}, lambda at: Ledger(at / "ledger.jsonl").close()),
        "manifest": Target(
            {"manifest.json": json.dumps(manifest).encode()}, lambda at: open_shards(str(at)).card()
        ),
    }


_PIECES = [
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\t",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b"<",
    ),
    *(
        b":",
        b",",
        b";",
        b"- ",
        b"&a ",
        b"*a",
        b"!!int ",
        b"#",
        b"%",
        b"null",
        b"NaN",
        b"1e999",
        b"-1",
        b"true",
        b"no",
        b"{}",
    ),
    *(
        b"\\ud800",
        b"\xed\xa0\x80",
        "\u202e\u2028".encode(),
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"a" * 100_000,
    ),
    *(b"<!DOCTYPE r [<!ENTITY a 'b'>]>", b"&a;", b"]]>", b"&#0;", b"T1\tX 9 3\tx\n", b"B-", b"\x1b[31m"),
]


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """`raw` after one to three accidents."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(raw) + 1)
        to = min(len(raw), at + chance.choice([1, 1, 2, 8, 64]))
        raw = chance.choice(
            [
                lambda raw, at, to: raw[:at] + chance.choice(_PIECES) + raw[at:],
                lambda raw, at, to: raw[:at] + chance.choice(_PIECES) + raw[to:],
                lambda raw, at, to: raw[:at] + raw[to:],
                lambda raw, at, to: raw[:to] + raw[at:to] * chance.choice([1, 9]) + raw[to:],
                lambda raw, at, to: (
                    raw[:at] + bytes(byte ^ 1 << chance.randrange(8) for byte in raw[at:to]) + raw[to:]
                ),
                lambda raw, at, to: raw[:at] + chance.randbytes(to - at) + raw[to:],
                lambda raw, at, to: raw[:at],
            ]
        )(raw, at, to)
    return raw


def _words_in(told: str) -> bool:
    return any(word.casefold() in told.casefold() for word in NOTE_WORDS)


class _TooLong(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise _TooLong


def fault_of(target: Target, name: str, raw: bytes, folder: Path) -> str | None:
    """What is wrong with how a damaged file was read; None where nothing is."""
    (folder / name).write_bytes(raw)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        target.read(folder)
    except ClinscaleError as error:
        return "its words are in the message" if _words_in(str(error)) else None
    except _TooLong:
        return f"longer than {LIMIT_S} s"
    except Exception as error:  # noqa: BLE001  the very thing that is looked for
        import traceback

        at = next(
            (f for f in reversed(traceback.extract_tb(error.__traceback__)) if "clinscale/" in f.filename), None
        )
        return (
            f"{type(error).__name__} at {at.filename.rpartition('clinscale/')[2]}:{at.lineno}"
            if at
            else repr(error)
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        (folder / name).write_bytes(target.files[name])
    return None


def run(begin: int, end: int) -> None:
    """In a child: each seed is told before its input is read, and its fault after."""
    targets = _targets()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as scratch:
        for kind, target in targets.items():
            for name, raw in target.files.items():
                path = Path(scratch, kind, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
            if kind != "manifest":
                target.read(
                    Path(scratch, kind)
                )  # so that what is imported late is no part of the first input's time
        whole = [raw for target in targets.values() for raw in target.files.values()]
        for seed in range(begin, end):
            chance = random.Random(seed)
            kind = [*targets][seed % len(targets)]
            target = targets[kind]
            name = chance.choice([*target.files])
            # now and then a whole file of another kind, as one that is named by mistake
            raw = chance.choice(whole) if chance.random() < 0.05 else mutated(target.files[name], chance)
            print(f"seed {seed}", flush=True)
            if fault := fault_of(target, name, raw, Path(scratch, kind)):
                print(f"fault {kind}/{name} seed {seed}: {fault}", flush=True)


def faults_of(count: int, first: int = 0) -> list[str]:
    """The faults of seeds `first` and after; a child that dies is told, and another goes on behind its seed."""
    faults: list[str] = []
    begin, end = first, first + count
    while begin < end:
        ended = subprocess.run(
            [sys.executable, __file__, str(begin), str(end)], capture_output=True, text=True, check=False
        )
        lines = ended.stdout.splitlines()
        faults += [line.removeprefix("fault ") for line in lines if line.startswith("fault ")]
        if ended.returncode == 0:
            break
        seeds = [int(line.split()[1]) for line in lines if line.startswith("seed ")]
        assert seeds, ended.stderr
        faults.append(f"seed {seeds[-1]}: its reader died ({ended.returncode}): {ended.stderr[-200:]}")
        begin = seeds[-1] + 1
    return faults


def test_the_whole_files_are_read():
    """Else all that follows would show nothing."""
    for kind, target in _targets().items():
        with tempfile.TemporaryDirectory() as scratch:
            for name, raw in target.files.items():
                path = Path(scratch, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
            if kind != "manifest":  # a ShardSet's other files are not there
                target.read(Path(scratch))


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_damaged_file_ends_otherwise_than_with_an_error_of_ours(count):
    assert faults_of(count) == []


if __name__ == "__main__":
    run(*map(int, sys.argv[1:]))
