"""`clinscale bench loading`: reading files beside the obvious script for each format."""

import contextlib
import functools
import gc
import gzip
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clinscale.bench import scripts
from clinscale.bench.files import Texts, invent_texts, write_arrow, write_invented, write_parquet
from clinscale.bench.measure import (
    in_fresh_process,
    one_arrow_thread,
    peak_resident_bytes,
    side_by_side,
    surroundings,
)
from clinscale.bench.record import BenchRecord, OnRatio, PeakMemory, Ratios, say_nothing
from clinscale.corpus import CleaningConfig, SourceConfig, read_documents
from clinscale.errors import ClinscaleError, ConfigError
from clinscale.records import Record, read_records
from clinscale.tasks import Example, Findings, TaskConfig, read_examples

FORMATS = (*scripts.ROWS, *scripts.EXAMPLES)
"""The names of the ratios."""

_ASKED = 0.5
_MB = 1_000_000
_PUBLIC = {
    "csv": ("mtsamples", "*.csv.gz"),
    "jsonl": ("pretrain_corpus", "*.jsonl.gz"),
    "json": ("nli4ct", "*.json"),
    "bio": ("ncbi_disease_bio", "*.tsv"),
    "brat": ("maccrobat2020", "*.*"),
    "i2b2_xml": ("meddocan/xml", "*.xml"),
    "squad": ("covid_qa", "*.json"),
}
"""Format -> folder of a public data set, and which of its files."""
_TASKS = {
    name: TaskConfig(
        name=name,
        kind="spans" if name == "squad" else "tokens",
        format=name,
        splits={"all": "."},
        split_ratios=(0.7, 0.1, 0.2),
    )
    for name in scripts.EXAMPLES
}


def bench_loading(
    *,
    data: str | None = None,
    megabytes: float = 10.0,
    stream_megabytes: tuple[float, float] = (20.0, 200.0),
    formats: Sequence[str] = FORMATS,
    repeats: int = 5,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda name: None,
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """Files to rows or examples in one thread, and the memory in which NOTEEVENTS is streamed.

    A is the obvious script, B clinscale's reader. Both must give the same ids, texts and gold before anything is timed;
    gold may differ in blanks at its ends, and otherwise only where the reader counts a repair. MB are those of the
    files, `.gz` unpacked.

    Args:
        data: a local folder that holds public data sets by the names in `_PUBLIC`; what is not there is invented.
            Parquet and Arrow are the rows of the CSV, written again.
        megabytes: size of the invented files of each format.
        stream_megabytes: a small and a large NOTEEVENTS, each streamed by a fresh process.
        formats: which of `FORMATS`.
        repeats: timed runs of each side, in turns.
        seed: of the invented files.
        on_progress: receives the name of what is measured next.
        on_ratio: receives each ratio as it ends.

    Raises:
        ConfigError: `data` is not a folder.
        ClinscaleError: A and B do not agree.
    """
    if data is not None and not Path(data).is_dir():
        known = ", ".join(folder for folder, _ in _PUBLIC.values())
        raise ConfigError(f"{data} is not a local folder; give one that holds any of {known}, or none")
    before = surroundings("loading", "cpu", packages=("pandas", "pyarrow"))
    ratios = Ratios(on_ratio)
    mb_per_s: dict[str, dict[str, float]] = {}
    details: dict[str, Any] = {}
    texts = invent_texts(seed)
    with tempfile.TemporaryDirectory() as temporary:
        for name in formats:
            on_progress(name)
            files, origin = _files(name, Path(temporary) / name, texts, data, round(megabytes * _MB))
            script = functools.partial(_run_script, name, files)
            reader = functools.partial(_run_reader, name, files)
            repaired = _assert_equal(name, script(), reader)
            with one_arrow_thread(), _collecting_only_what_is_read():
                times = side_by_side(script, reader, repeats=repeats, device="cpu")
            seconds, num_bytes = times.seconds(), sum(map(_num_bytes, files))
            ratios[name] = times.ratio(_ASKED)
            mb_per_s[name] = {side: num_bytes / _MB / seconds[side]["median_s"] for side in "ab"}
            details[name] = seconds | {"bytes": num_bytes, "data": origin, "repaired": repaired}
        on_progress("memory")
        memory = {"noteevents": _stream_memory(Path(temporary) / "stream", texts, stream_megabytes)}
    return BenchRecord(surroundings=before, ratios=ratios, mb_per_s=mb_per_s, memory=memory, details=details)


def _run_script(name: str, files: Sequence[Path]) -> list[Any]:
    return scripts.ROWS[name](files) if name in scripts.ROWS else scripts.EXAMPLES[name](files[0].parent)


def _run_reader(name: str, files: Sequence[Path], findings: Findings | None = None) -> list[Any]:
    if name in scripts.ROWS:
        return [record for file in files for record in read_records(str(file))]
    return read_examples(_TASKS[name], str(files[0].parent), findings or Findings("skip"))


def _assert_equal(name: str, theirs: list[Any], reader: Callable[..., list[Any]]) -> int:
    """Number of repairs that the reader counts; ClinscaleError where it gives something else without one."""
    findings = Findings("skip")
    ours = [_comparable(read) for read in reader(findings=findings)]
    theirs = [_comparable(read) for read in theirs]
    if [texts for texts, _ in theirs] != [texts for texts, _ in ours]:
        raise ClinscaleError(f"bench {name}: clinscale and the script read different texts; report the files")
    different = sum(a != b for (_, a), (_, b) in zip(theirs, ours, strict=True))
    repaired = sum(findings.repaired.values())
    if different > repaired:
        raise ClinscaleError(
            f"bench {name}: clinscale and the script differ in the gold of {different} examples, but only "
            f"{repaired} repairs were counted; report the files"
        )
    return repaired


def _comparable(read: Any) -> tuple[Any, scripts.Gold]:
    """(row, or id and texts, gold) of what a script or a reader gave."""
    match read:
        case Record():
            return read.fields, ()
        case Example():
            answers = tuple((answer.start, answer.text) for answer in read.answers)
            entities = {(entity.start, entity.end, entity.label) for entity in read.entities}
            return (read.id, read.text, read.text_pair), answers or tuple(sorted(entities))
        case (name, text, second, gold):
            entities = {_trimmed(text, *span) for span in gold if len(span) == 3}
            return (name, text, second), tuple(sorted(entities)) or gold
        case row:
            return row, ()


def _trimmed(text: str, start: int, end: int, label: str) -> tuple[int, int, str]:
    surface = text[start:end]
    return start + len(surface) - len(surface.lstrip()), end - len(surface) + len(surface.rstrip()), label


def _files(name: str, folder: Path, texts: Texts, data: str | None, num_bytes: int) -> tuple[list[Path], str]:
    """The files of a format, and which data set they are."""
    if name in ("parquet", "arrow"):
        files, origin = _files("csv", folder, texts, data, num_bytes)
        file = folder.with_suffix(f".{name}")
        (write_parquet if name == "parquet" else write_arrow)(file, scripts.read_csv(files))
        return [file], origin
    if data and name in _PUBLIC:
        data_set, pattern = _PUBLIC[name]
        if files := sorted((Path(data) / data_set).glob(pattern)):
            return files, data_set
    write_invented(name, folder, texts, num_bytes)
    return sorted(folder.iterdir()), "invented"


def _num_bytes(file: Path) -> int:
    if file.suffix != ".gz":
        return file.stat().st_size
    with gzip.open(file) as stream:
        return stream.seek(0, 2)


def _stream_memory(folder: Path, texts: Texts, sizes: tuple[float, float]) -> PeakMemory:
    found: list[int] = []
    for size, megabytes in zip(("small", "large"), sizes, strict=True):
        write_invented("noteevents", folder / size, texts, round(megabytes * _MB))
        [file] = (folder / size).iterdir()
        found += [file.stat().st_size, in_fresh_process(_stream, str(file))]
    return PeakMemory(*found)


def _stream(uri: str) -> int:
    """Peak memory of going through the notes as `corpus build` does, but for the hashes by which it knows repeats."""
    source = SourceConfig(uri=uri, text_column="TEXT", id_column="ROW_ID", drop_rows={"ISERROR": ("1",)})
    for _ in read_documents([source], CleaningConfig(drop_duplicates=False)):
        pass
    return peak_resident_bytes()


@contextlib.contextmanager
def _collecting_only_what_is_read() -> Iterator[None]:
    """Garbage collection does not walk what the process held before, which is torch and no business of a reader."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
