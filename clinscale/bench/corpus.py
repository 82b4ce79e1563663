"""`clinscale bench corpus`: notes to training tokens beside HF's `run_mlm`, and the memory of a build at two sizes."""

import contextlib
import csv
import functools
import gzip
import itertools
import json
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from clinscale import corpus
from clinscale.bench.files import invent_texts
from clinscale.bench.measure import in_fresh_process, one_arrow_thread, side_by_side, surroundings
from clinscale.bench.record import BenchRecord, OnRatio, PeakMemory, Ratios, say_nothing
from clinscale.errors import ClinscaleError, ConfigError
from clinscale.runtime import ray_session, variables

_ASKED = 1.5
_MB = 1_000_000
_ROW_TOKENS = 512
_VOCABULARY = 8192
_PUBLIC = ("pretrain_corpus", "*.jsonl.gz")
_GROUPED_AT_ONCE = 1000  # what `datasets` hands to `group_texts`, and run_mlm does not change


def bench_corpus(
    *,
    data: str | None = None,
    megabytes: float = 10.0,
    scale: tuple[float, float] | None = None,
    repeats: int = 3,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda name: None,
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """One process and one thread each: JSON lines to rows of 512 tokens; and the peak memory of building on Ray.

    A is `run_mlm.py` of transformers without `--line_by_line`: `load_dataset`, `map` of the tokenizer, `map` of
    `group_texts`, with nothing of an earlier run reused. B is `build_shards`. Their streams of tokens must be equal
    before anything is timed, A's opening tokens aside. MB are those of the notes.

    `maps` is A's two maps alone over the whole of B with no duplicates looked for; `run_mlm` counts A's `load_dataset`
    too; `maps_duplicates_dropped` is `maps` with exact and near duplicates looked for by B.

    Args:
        data: a local folder that holds the public `pretrain_corpus`; None invents notes.
        megabytes: of text to be timed on.
        scale: megabytes of a small and a large NOTEEVENTS of invented notes, each built by a fresh process that starts
            Ray on all CPUs; None measures no memory.
        repeats: timed runs of each side, in turns.
        seed: of the invented notes.
        on_progress: receives the name of what is measured next.
        on_ratio: receives each ratio as it ends.

    Raises:
        ConfigError: `data` is a folder without the public notes.
        ClinscaleError: the two streams of tokens differ.
    """
    before = surroundings("corpus", "cpu", packages=("datasets", "tokenizers", "ray"))
    ratios = Ratios(on_ratio)
    mb_per_s: dict[str, dict[str, float]] = {}
    details: dict[str, Any] = {}
    # a few threads of DuckDB come after what is measured with duplicates off
    with tempfile.TemporaryDirectory() as temporary, variables(TOKENIZERS_PARALLELISM="false"), one_arrow_thread():
        folder = Path(temporary)
        on_progress("tokenizer")
        notes = folder / "notes.jsonl"
        num_bytes = _write_notes(notes, data, round(megabytes * _MB), seed)
        tokenizer = _tokenizer(folder, notes)
        ours = functools.partial(_build, notes, tokenizer, folder / "shards")
        theirs = _RunMlm(notes, tokenizer, folder / "cache")
        _assert_equal(theirs.stream(), _stream(ours()))
        for name, ask, peer, build in (
            ("maps", _ASKED, theirs.maps, ours),
            ("run_mlm", None, theirs, ours),
            ("maps_duplicates_dropped", None, theirs.maps, functools.partial(ours, drop_duplicates=True)),
        ):
            on_progress(name)
            times = side_by_side(peer, build, repeats=repeats, device="cpu")
            seconds = times.seconds()
            ratios[name] = times.ratio(ask)
            mb_per_s[name] = {side: num_bytes / _MB / seconds[side]["median_s"] for side in "ab"}
            details[name] = seconds | {"bytes": num_bytes, "data": _PUBLIC[0] if data else "invented"}
        theirs.close()
    memory: dict[str, PeakMemory] = {}
    if scale:
        on_progress("memory")
        memory = _memory(scale, seed)
    return BenchRecord(surroundings=before, ratios=ratios, mb_per_s=mb_per_s, memory=memory, details=details)


class _RunMlm:
    """The steps of transformers' examples/pytorch/language-modeling/run_mlm.py before training."""

    def __init__(self, notes: Path, tokenizer: Path, cache: Path) -> None:
        from transformers import AutoTokenizer

        self._notes, self._cache = notes, cache
        self._tokenizer = AutoTokenizer.from_pretrained(str(tokenizer), use_fast=True)
        self._tokenizer.model_max_length = int(1e30)  # its warning that notes are long
        self._loaded = self._load()

    def __call__(self) -> None:
        """All of it."""
        self._group(self._tokenize(self._load()))

    def maps(self) -> None:
        """The two maps over what is loaded."""
        self._group(self._tokenize(self._loaded))

    def stream(self) -> Any:
        """All tokens in order, without those that open a note."""
        rows = self._tokenize(self._loaded)["input_ids"]
        return np.concatenate([np.array(row[1:]) for row in rows])

    def close(self) -> None:
        """Let go of the files."""
        del self._loaded

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        shutil.rmtree(self._cache, ignore_errors=True)
        return datasets.load_dataset(
            "json", data_files={"train": str(self._notes)}, cache_dir=str(self._cache), split="train"
        )

    def _tokenize(self, raw: Any) -> Any:
        tokenizer = self._tokenizer

        def tokenize_function(examples: dict[str, Any]) -> Any:
            return tokenizer(examples["text"], return_special_tokens_mask=True)

        return raw.map(tokenize_function, batched=True, remove_columns=["text"], load_from_cache_file=False)

    def _group(self, tokenized: Any) -> Any:
        def group_texts(examples: dict[str, Any]) -> dict[str, Any]:
            concatenated_examples = {k: list(itertools.chain(*examples[k])) for k in examples}
            total_length = len(concatenated_examples[next(iter(examples))])
            total_length = (total_length // _ROW_TOKENS) * _ROW_TOKENS
            return {
                k: [t[i : i + _ROW_TOKENS] for i in range(0, total_length, _ROW_TOKENS)]
                for k, t in concatenated_examples.items()
            }

        return tokenized.map(group_texts, batched=True, batch_size=_GROUPED_AT_ONCE, load_from_cache_file=False)


def _build(notes: Path, tokenizer: Path, out: Path, *, drop_duplicates: bool = False) -> corpus.ShardSet:
    shutil.rmtree(out, ignore_errors=True)
    values = {
        "sources": [{"uri": str(notes)}],
        "tokenizer": str(tokenizer),
        "validation_fraction": 0,
        "cleaning": {"drop_duplicates": drop_duplicates},
        "near_duplicates": {"enabled": drop_duplicates},
    }
    return corpus.build_shards(corpus.CorpusConfig.parse(values, source="bench"), str(out))


def _stream(shards: corpus.ShardSet) -> Any:
    """All tokens in order, as rows hold them between their frames."""
    rows = shards.rows("train", _ROW_TOKENS)
    tokens = shards.manifest.splits["train"].tokens
    return np.concatenate([row[1:-1] for row in rows])[:tokens]


def _assert_equal(theirs: Any, ours: Any) -> None:
    if not np.array_equal(theirs, ours):
        raise ClinscaleError(
            f"bench corpus: run_mlm made {len(theirs)} tokens and clinscale {len(ours)}, or others; report the notes"
        )


def _write_notes(file: Path, data: str | None, num_bytes: int, seed: int) -> int:
    """JSON lines with the column `text`; returns the bytes of text."""
    written = 0
    with file.open("w", encoding="utf-8") as stream:
        for text in _public_notes(data) if data else _endless_notes(seed):
            if written >= num_bytes:
                break
            written += len(text.encode())
            stream.write(f"{json.dumps({'text': text})}\n")
    return written


def _public_notes(data: str) -> Iterator[str]:
    name, pattern = _PUBLIC
    files = sorted((Path(data) / name).glob(pattern))
    if not files:
        raise ConfigError(f"{data} must be a local folder that holds {name}/{pattern}; give it, or no --data")
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)["text"]


def _endless_notes(seed: int) -> Iterator[str]:
    """The demo's sentences in ever new order; in a hundred notes five are copies, and five copies with a word more."""
    generator = random.Random(seed)
    sentences = sorted({line for text, _ in invent_texts(seed).notes for line in text.splitlines() if line})
    words = sorted({word for sentence in sentences for word in sentence.split()})
    recent: list[str] = []
    for number in itertools.count():
        kind = generator.random()
        if recent and kind < 0.1:
            text = generator.choice(recent)
            yield text if kind < 0.05 else f"{text} Signed."
            continue
        # words of their own keep invented notes apart, as numbers and names do real ones
        lines = [
            " ".join([generator.choice(sentences), *generator.choices(words, k=8)])
            for _ in range(generator.randint(5, 60))
        ]
        text = "\n".join([f"Note {number}.", *lines])
        recent = [*recent[-99:], text]
        yield text


def _tokenizer(folder: Path, notes: Path) -> Path:
    texts = (json.loads(line)["text"] for line in notes.read_text(encoding="utf-8").splitlines())
    corpus.train_tokenizer(texts, _VOCABULARY).save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def _memory(sizes: tuple[float, float], seed: int) -> dict[str, PeakMemory]:
    """The memory that the driver and the largest worker each held for themselves at most, at both sizes."""
    (small_bytes, small), (large_bytes, large) = (_peaks(megabytes, seed) for megabytes in sizes)
    return {f"corpus {name}": PeakMemory(small_bytes, small[name], large_bytes, large[name]) for name in small}


def _peaks(megabytes: float, seed: int) -> tuple[int, dict[str, int]]:
    """Size of one file, and the memory held at most while it was built, by `driver` and `worker`."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "NOTEEVENTS.csv"
        _write_noteevents(file, round(megabytes * _MB), seed)
        peaks = Path(temporary) / "peaks.json"
        in_fresh_process(_build_watched, str(file), str(Path(temporary) / "shards"), str(peaks))
        return file.stat().st_size, json.loads(peaks.read_text(encoding="utf-8"))


def _write_noteevents(file: Path, num_bytes: int, seed: int) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("ROW_ID", "SUBJECT_ID", "CATEGORY", "ISERROR", "TEXT"))
        for number, text in enumerate(_endless_notes(seed)):
            writer.writerow((number, number // 40, "Nursing", "", text))
            num_bytes -= len(text)
            if num_bytes <= 0:
                return


def _build_watched(uri: str, out: str, peaks: str) -> int:
    """Build on a Ray of all CPUs and write down what processes held at most; returns the notes kept."""
    source = corpus.SourceConfig(
        uri=uri, text_column="TEXT", group_column="SUBJECT_ID", drop_rows={"ISERROR": ("1",)}
    )
    peak = {"driver": 0, "worker": 0}
    done = threading.Event()
    with ray_session() as cluster:
        watch = threading.Thread(target=_watch, args=(peak, done))
        watch.start()
        try:
            shards = corpus.build_shards(corpus.CorpusConfig(sources=(source,)), out, num_cpus=cluster.num_cpus)
        finally:
            done.set()
            watch.join()
    Path(peaks).write_text(json.dumps(peak), encoding="utf-8")
    return shards.manifest.splits["train"].documents


def _watch(peak: dict[str, int], done: threading.Event) -> None:
    driver = psutil.Process()
    while not done.is_set():
        for process in [driver, *driver.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                kind = "driver" if process == driver else "worker"
                # shared is Ray's object store, which has a size of its own
                if kind == "driver" or process.name().startswith("ray::"):
                    peak[kind] = max(peak[kind], memory.rss - memory.shared)
        time.sleep(0.1)
