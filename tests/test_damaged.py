"""Every reader on mutated files: what it cannot read it refuses in a sentence of ours, which quotes nothing of it.

More examples: `pytest --hypothesis-profile nightly tests/test_damaged.py`.
"""

import contextlib
import copy
import gzip
import io
import json
import random
import re

import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinscale import corpus, tasks
from clinscale.cells import as_text
from clinscale.engine.checkpoints import fault_of
from clinscale.errors import ClinscaleError
from clinscale.finetune import FinetuneConfig
from clinscale.models.hf_weights import check_hf_folder
from clinscale.predict.card import TaskCard
from clinscale.pretrain import PretrainConfig
from clinscale.records import read_records
from clinscale.registry.folders import hash_folder
from clinscale.registry.lock import read_lock
from clinscale.study.protocol import Protocol
from clinscale.sweep.ledger import Ledger
from clinscale.sweep.space import SearchSpace

SECRET = "Quuxford"
"""A patient's name, which is in every file and may be in no message."""

TEXT = f'Mrs {SECRET} said "no",\nwas given 25 mg of aspirin; left.'
ROWS = [{"id": str(n), "patient": n // 2, "text": f"{n}: {TEXT}", "label": "yes"} for n in range(6)]

ODD = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\\ud800", b"\xd9\xa1", b"\xc2\xa0"),
    *(b'"', b"\n", b"\r", b"\t", b",", b";", b"{", b"[", b"]", b"}", b"<", b"&", b"]]>", b": ", b"- ", b"&a *a"),
    *(b"nan", b"null", b"true", b"-1", b"1_0", b"1e400", b"9" * 30, b"9" * 5000, b"[" * 3000, b"../../x", b"/x"),
    *(b"T1\tA 9 3\tx\n", b"R1\tX Arg1:T1 Arg2:T9\n", b"I-X\n", b"<!DOCTYPE a [<!ENTITY b 'c'>]>"),
]
VALUES = [None, True, -1, 0, 1.5, 10**30, "", [], {}, [None], "\0", "nan", "../../x", "/x", {"a": 1}, "x" * 300]


def cut_and_patched(content, chance):
    """`content` with bytes replaced, inserted, repeated and left out."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 6))):
        start = chance.randrange(len(damaged) + 1)
        end = start + chance.choice((0, 0, 1, 4, 60))
        damaged[start:end] = chance.choice((*ODD, bytes([chance.randrange(256)]), damaged[:start], b""))
    return bytes(damaged)


def with_other_values(content, chance):
    """JSON with values of it replaced, renamed and left out."""
    document = json.loads(content)
    for _ in range(chance.choice((1, 1, 3))):
        inside = [document]
        for value in inside:
            members = value.values() if isinstance(value, dict) else value
            inside += [member for member in members if isinstance(member, dict | list) and member]
        holder = chance.choice(inside)
        key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
        if chance.random() < 0.25:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
        if not document:
            break
    return json.dumps(document).encode()


def damaged(content, chance):
    with contextlib.suppress(ValueError, RecursionError, IndexError):
        if chance.random() < 0.6:
            return with_other_values(content, chance)
    if content.startswith(b"\x1f\x8b") and chance.random() < 0.8:
        return gzip.compress(cut_and_patched(gzip.decompress(content), chance))
    return cut_and_patched(content, chance)


def made(write, *arguments):
    stream = io.BytesIO()
    write(*arguments, stream)
    return stream.getvalue()


def workbook():
    book = openpyxl.Workbook()
    for row in (list(ROWS[0]), *(list(row.values()) for row in ROWS)):
        book.active.append(row)
    return made(book.save)


def table(separator):
    quoted = (
        separator.join(f'"{str(value).replace(chr(34), chr(34) * 2)}"' for value in row.values()) for row in ROWS
    )
    return "\r\n".join([separator.join(ROWS[0]), *quoted, ""]).encode()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
OF_ROWS = {
    "n.csv": table(","),
    "n.csv.gz": gzip.compress(table(";")),
    "n.tsv": table("\t"),
    "n.jsonl": LINES,
    "n.json": json.dumps(ROWS).encode(),
    "n.parquet": made(pyarrow.parquet.write_table, pyarrow.Table.from_pylist(ROWS)),
    "n.feather": made(pyarrow.feather.write_feather, pyarrow.Table.from_pylist(ROWS)),
    "n.xlsx": workbook(),
}


def read_rows(folder):
    for file in folder.iterdir():
        for record in read_records(str(file), ["id", "text"]):
            record.read(as_text, "text")


def read_corpus(folder):
    source = corpus.SourceConfig(uri=str(folder), id_column="id", group_column="patient")
    list(corpus.read_documents([source], corpus.CleaningConfig()))


BRAT = f"T1\tDrug 50 57\taspirin\nT2\tName 4 {4 + len(SECRET)}\t{SECRET}\nR1\tOf Arg1:T1 Arg2:T2\n"
XML = (
    f"<d><TEXT><![CDATA[{TEXT}]]></TEXT><TAGS><N id='N1' start='4' end='12' text='{SECRET}' TYPE='N'/></TAGS></d>"
)
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": TEXT,
                    "qas": [{"id": "q1", "question": "Who?", "answers": [{"text": SECRET, "answer_start": 4}]}],
                }
            ]
        }
    ]
}
ALONE = {split: "." for split in ("train", "dev", "test")}
OF_TASKS = {
    "brat": ({"kind": "tokens", "format": "brat"}, {"a.txt": TEXT, "a.ann": BRAT}),
    "relations": ({"kind": "relations", "format": "brat"}, {"a.txt": TEXT, "a.ann": BRAT}),
    "i2b2_xml": ({"kind": "tokens", "format": "i2b2_xml"}, {"a.xml": XML}),
    "bio": ({"kind": "tokens", "format": "bio"}, {"a.tsv": f"Mrs\tO\n{SECRET}\tB-N\nleft\tI-N\n\nShe\tO\n"}),
    "squad": ({"kind": "spans", "format": "squad"}, {"a.json": json.dumps(SQUAD)}),
    "records": ({"kind": "sequence", "format": "records", "columns": {"id": "id"}}, {"a.jsonl": LINES.decode()}),
}


def reads_task(name):
    task = tasks.TaskConfig.parse({"name": "t", "about": "x", "splits": ALONE, **OF_TASKS[name][0]}, source="t")

    def read(folder):
        for mode in ("skip", "raise"):
            findings = tasks.Findings(mode)
            tasks.read_examples(task, str(folder), findings)
            refuse_secret(json.dumps([findings.rejected, findings.repaired, findings.places, findings.remarks]))
        for file in folder.iterdir():
            for document in tasks.read_unlabelled(task, str(file), tasks.document_format(task, str(file)), "x"):
                refuse_secret(document.fault)

    return {name: content.encode() for name, content in OF_TASKS[name][1].items()}, read


HASH = "a" * 64
PLAN = {
    "step": 1,
    "updates": 1,
    "schedule_steps": 1,
    "world_size": 1,
    "stage": 0,
    "precision": "fp32",
    "metric": 0.5,
}
OF_SWEEP = [
    {
        "event": "start",
        "study": 0,
        "number": 0,
        "params": {"a": 1},
        "origin": "sampler",
        "seed": 1,
        "system_attrs": {},
    },
    {
        "event": "epoch",
        "study": 0,
        "number": 0,
        "epoch": 1,
        "objective": 0.5,
        "seconds": 1.0,
        "metrics": {"f1": 0.5},
    },
    {"event": "end", "study": 0, "number": 0, "state": "complete", "reason": None, "message": ""},
]
LOCKED = {"registry": "sqlite:///x", "name": "demo", "version": 3, "digest": HASH}
CARD = {"task": {"name": "t", "about": "x", "kind": "tokens", "format": "brat", "splits": ALONE}, "labels": ["N"]}
SPACE = {
    "parameters": {"learning_rate": {"type": "float", "low": 1e-6, "high": 1e-3, "log": True}},
    "first_trials": [{"learning_rate": 1e-5}],
}
OF_FILES = {
    "checkpoint": (
        {
            "manifest.json": {**PLAN, "parameters": ["a"], "files": {"x.pt": [3, HASH]}, "taken_at_s": 1.0},
            "x.pt": "abc",
        },
        fault_of,
    ),
    "ledger": (
        {"ledger.jsonl": "".join(json.dumps(line) + "\n" for line in OF_SWEEP)},
        lambda folder: Ledger(folder / "ledger.jsonl").close(),
    ),
    "lock file": (
        {"models.lock": {"format": 1, "models": {"demo@champion": LOCKED}}},
        lambda folder: read_lock(folder / "models.lock"),
    ),
    "task card": ({"task_card.json": {**CARD, "max_tokens": 64, "stride_tokens": 8}}, TaskCard.read),
    "task": ({"t.yaml": CARD["task"]}, lambda folder: tasks.load_task(str(folder / "t.yaml"))),
    "search space": ({"s.yaml": SPACE}, lambda folder: SearchSpace.load(folder / "s.yaml")),
    "pretraining": (
        {"p.yaml": {"name": "r", "recipe": {"shards": "x", "duration": "8steps"}, "runtime": {"num_workers": 1}}},
        lambda folder: PretrainConfig.load(folder / "p.yaml").fingerprint(),
    ),
    "fine-tuning": (
        {"f.yaml": {"name": "r", "recipe": {"epochs": 2, "model": {"family": "bigbird"}}, "runtime": {}}},
        lambda folder: FinetuneConfig.load(folder / "f.yaml").fingerprint(),
    ),
    "protocol": (
        {"p.yaml": {"name": "p", "tasks": {"demo_entities": {"data": "x"}}, "models": {"a": {"pretrained": "x"}}}},
        lambda folder: Protocol.load(folder / "p.yaml"),
    ),
    "model folder": (
        {"config.json": {"model_type": "roberta", "pad_token_id": 1, "vocab_size": 9}, "model.safetensors": "\2"},
        check_hf_folder,
    ),
    "model to register": (
        {"config.json": {"model_type": "roberta"}, "requirements.txt": "torch==2.13.0\n", "a.safetensors": "\2"},
        lambda folder: hash_folder(folder, source="x"),
    ),
}


def as_bytes(content):
    return content.encode() if isinstance(content, str) else json.dumps(content).encode()


READERS = {
    **{f"rows of {name}": ({name: content}, read_rows) for name, content in OF_ROWS.items()},
    "corpus": ({name: OF_ROWS[name] for name in ("n.csv", "n.jsonl")}, read_corpus),
    **{f"task of {name}": reads_task(name) for name in OF_TASKS},
    **{
        name: ({file: as_bytes(content) for file, content in files.items()}, read)
        for name, (files, read) in OF_FILES.items()
    },
}


def refuse_secret(message):
    assert SECRET.lower() not in message.lower(), "a message quotes the file"


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=settings.default.max_examples // 4,  # there are many readers
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**64))
def test_no_damage_breaks_a_reader_or_shows_a_text(tmp_path, name, seed):
    files, read = READERS[name]
    chance = random.Random(seed)
    target = chance.choice(list(files))
    folder = tmp_path / "read"
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(damaged(content, chance) if file == target else content)
    try:
        read(folder)
    except ClinscaleError as error:
        refuse_secret(re.sub(r"known: .*|column \d+.*", "", str(error)))
