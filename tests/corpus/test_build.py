import json
import threading
import time

import numpy as np
import pytest

from clinscale import held
from clinscale.corpus import (
    CleaningConfig,
    CorpusConfig,
    Document,
    SourceConfig,
    build_shards,
    load_tokenizer,
    open_shards,
    parts,
    read_documents,
)
from clinscale.corpus import build as build_module
from clinscale.corpus.tokenizing import encode
from clinscale.errors import ConfigError, DataError


def stream_of(shards, split):
    rows = shards.rows(split, 128)
    return np.concatenate([row[1 : np.flatnonzero(row != rows.special.pad)[-1]] for row in rows])


def config_of(texts, path, **changes):
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    values = {"vocab_size": 300, "validation_fraction": 0.3, "shard_tokens": 50, **changes}
    return CorpusConfig(sources=(SourceConfig(uri=str(path)),), **values)


NOTES = [f"Note {n}: BP {100 + n}/{60 + n}, given aspirin {n} mg; doing well." for n in range(60)]


def test_the_streams_are_the_notes_in_order(shards, demo_config):
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    documents = list(read_documents(demo_config.sources, demo_config.cleaning))
    found = []
    for split in ("train", "validation"):
        notes = tokenizer.decode(stream_of(shards, split), clean_up_tokenization_spaces=False).split("</s>")
        assert notes.pop() == ""
        assert len(notes) == shards.manifest.splits[split].documents > 0
        positions = [next(i for i, document in enumerate(documents) if document.text == note) for note in notes]
        assert positions == sorted(positions)
        found += positions
    assert sorted(found) == list(range(len(documents)))


def test_the_manifest_counts_what_is_there(shards, demo_config):
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    documents = list(read_documents(demo_config.sources, demo_config.cleaning))
    lengths = sorted(len(ids) for ids in encode(tokenizer, [document.text for document in documents]))
    card = shards.card()
    assert card["train_documents"] + card["validation_documents"] == len(documents)
    assert card["train_tokens"] + card["validation_tokens"] == sum(lengths) + len(documents)
    assert card["document_tokens"]["max"] == lengths[-1]
    assert card["document_tokens"]["p50"] == lengths[(len(lengths) - 1) // 2]
    assert card["document_tokens"]["mean"] == pytest.approx(np.mean(lengths), abs=0.06)
    assert card["share_cut_at"]["512"] == pytest.approx(np.mean(np.array(lengths) > 510), abs=1e-4)
    assert json.loads(json.dumps(card)) == card


def test_no_text_and_no_id_is_in_the_manifest(shards, demo_config):
    manifest = json.dumps(shards.manifest.plain())
    for document in read_documents(demo_config.sources, demo_config.cleaning):
        assert document.id not in manifest
        assert not any(line and line in manifest for line in document.text.splitlines())


def test_duplicates_that_are_kept_fall_on_one_side(tmp_path):
    config = config_of(NOTES * 3, tmp_path / "n.jsonl", cleaning=CleaningConfig(drop_duplicates=False))
    built = build_shards(config, str(tmp_path / "set"))
    tokenizer = load_tokenizer(str(built.tokenizer_dir))
    sides = [
        set(tokenizer.decode(stream_of(built, split)).split("</s>")) - {""} for split in ("train", "validation")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == len(NOTES)


def test_the_trained_tokenizer_sees_training_notes_only(tmp_path):
    """The held-out notes share a word that occurs nowhere else: it must not become a token."""
    config = config_of(NOTES, tmp_path / "n.jsonl")
    marked = [
        f"{text} Zyxwvut." if config.is_validation(Document("", f"{text} Zyxwvut.")) else text for text in NOTES
    ]
    assert marked != NOTES
    built = build_shards(config_of(marked, tmp_path / "n.jsonl", vocab_size=5000), str(tmp_path / "set"))
    vocabulary = load_tokenizer(str(built.tokenizer_dir)).get_vocab()
    assert "Ġaspirin" in vocabulary
    assert "Ġ" + "Zyxwvut" not in vocabulary


def test_building_again_returns_what_is_there(tmp_path):
    config = config_of(NOTES, tmp_path / "n.jsonl")
    first = build_shards(config, str(tmp_path / "set"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    seen = []
    again = build_shards(config, str(tmp_path / "set"), on_progress=seen.append)
    assert again.fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before
    assert not seen


def test_moved_notes_are_the_same_corpus(tmp_path):
    first = build_shards(config_of(NOTES, tmp_path / "n.jsonl"), str(tmp_path / "set"))
    moved = config_of(NOTES, tmp_path / "elsewhere.jsonl")
    assert build_shards(moved, str(tmp_path / "set")).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("texts", "changes", "difference"),
    [
        (NOTES, {"cleaning": CleaningConfig(lower_case=True)}, "cleaning.lower_case: False -> True"),
        (NOTES, {"vocab_size": 400}, "vocab_size: 300 -> 400"),
        (NOTES, {"seed": 1}, "seed: 0 -> 1"),
        ([*NOTES, "One more."], {}, "sources.0.sha256"),
    ],
)
def test_another_recipe_is_refused_and_named(tmp_path, texts, changes, difference):
    first = build_shards(config_of(NOTES, tmp_path / "n.jsonl"), str(tmp_path / "set"))
    with pytest.raises(ConfigError, match="another recipe") as error:
        build_shards(config_of(texts, tmp_path / "n.jsonl", **changes), str(tmp_path / "set"))
    assert difference in str(error.value)
    assert (
        build_shards(config_of(NOTES, tmp_path / "n.jsonl"), str(tmp_path / "set")).fingerprint
        == first.fingerprint
    )


def test_an_interrupted_build_is_no_shard_set_and_can_be_repeated(tmp_path, monkeypatch):
    config = config_of(NOTES, tmp_path / "n.jsonl")
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 500)

    def stop_midway(done):
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shards(config, str(tmp_path / "set"), on_progress=stop_midway)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "set" / "parts").glob("*.part")}
    assert len(done) > 2
    with pytest.raises(DataError, match="not a ShardSet"):
        build_module.open_shards(tmp_path / "set")
    seen = []
    made_again = []
    monkeypatch.setattr(
        parts, "_write", lambda table, uri, write=parts._write: (made_again.append(uri), write(table, uri))
    )
    same = build_shards(config, str(tmp_path / "set"), on_progress=seen.append)
    assert not {str(path) for path in done} & set(made_again), "a part that was there has been made again"
    assert seen[-1] < len(NOTES)
    assert same.fingerprint == build_shards(config, str(tmp_path / "undisturbed")).fingerprint
    assert not (tmp_path / "set" / "parts").exists()


def interrupted_build(config, out):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shards(config, str(out), on_progress=stop)


def test_an_unfinished_build_of_another_recipe_is_left_alone(tmp_path, monkeypatch):
    """It may be running, and somebody else's."""
    config = config_of(NOTES, tmp_path / "n.jsonl")
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 500)
    interrupted_build(config, tmp_path / "set")
    before = contents_of(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"unfinished .* by another recipe; differing: seed: 0 -> 7"):
        build_shards(config.model_copy(update={"seed": 7}), str(tmp_path / "set"))
    assert contents_of(tmp_path / "set") == before
    undisturbed = build_shards(config, str(tmp_path / "undisturbed"))
    assert build_shards(config, str(tmp_path / "set")).fingerprint == undisturbed.fingerprint


def contents_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "neighbour"),
    [("run[1]", "run1"), ("run*", "run1"), ("ru?1", "run1"), ("a::b", "a"), ("a b%20#c", "a b c"), ("{a,b}", "a")],
)
def test_a_neighbour_whose_name_the_path_matches_as_a_pattern_stays_whole(tmp_path, monkeypatch, name, neighbour):
    config = config_of(NOTES, tmp_path / "n.jsonl")
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 500)
    first = build_shards(config, str(tmp_path / neighbour))
    interrupted_build(config.model_copy(update={"seed": 2}), tmp_path / neighbour / "inside")
    before = contents_of(tmp_path / neighbour)
    built = build_shards(config, str(tmp_path / name))
    assert built.fingerprint == first.fingerprint
    assert contents_of(tmp_path / neighbour) == before
    assert not (tmp_path / name / "parts").exists()


def test_a_neighbour_in_an_object_store_stays_whole(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("CLINSCALE_CACHE", str(tmp_path / "cache"))
    config = config_of(NOTES, tmp_path / "n.jsonl")
    store = fsspec.filesystem("memory").store
    first = build_shards(config, "memory://bucket/run1")
    store["/bucket/run1/parts/x"] = store["/bucket/run1/manifest.json"]
    before = set(store)
    assert build_shards(config, "memory://bucket/run[1]").fingerprint == first.fingerprint
    assert before < set(store)
    store.clear()


@pytest.mark.parametrize(
    "name",
    ["parts/notes.txt", "tokenizer/tokenizer.json", "train-00000.tokens", "validation-documents.lengths"],
)
def test_what_no_build_has_written_is_never_deleted_or_written_over(tmp_path, name):
    place = tmp_path / "set" / name
    place.parent.mkdir(parents=True)
    place.write_text("a user's own")
    config = config_of(NOTES, tmp_path / "n.jsonl")
    with pytest.raises(ConfigError, match="no build of a ShardSet has left there"):
        build_shards(config, str(tmp_path / "set"))
    assert contents_of(tmp_path / "set") == {place: b"a user's own"}


def test_files_that_are_put_beside_a_running_build_stay(tmp_path):
    def put(done):
        for name in ("parts/a.txt", "other.tokens"):
            (tmp_path / "set" / name).write_text("mine")

    build_shards(config_of(NOTES, tmp_path / "n.jsonl"), str(tmp_path / "set"), on_progress=put)
    assert {path.name for path in (tmp_path / "set" / "parts").iterdir()} == {"a.txt"}
    assert (tmp_path / "set" / "other.tokens").read_text() == "mine"


def test_a_build_whose_folder_goes_away_waits_for_it_and_writes_nothing_in_its_place(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(held, "_RETRY_S", 0.001)
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 500)
    config, out = config_of(NOTES, tmp_path / "n.jsonl"), tmp_path / "set"
    left, back = [], []

    def come_back():
        while "waits for its folder" not in caplog.text:
            time.sleep(0)
        out.rmdir()  # nothing was written there
        (tmp_path / "server").rename(out)
        back.append(True)

    def leave(done):
        if not left:
            left.append(True)
            out.rename(tmp_path / "server")
            out.mkdir()  # the mount point
            threading.Thread(target=come_back, daemon=True).start()

    shards = build_shards(config, str(out), on_progress=leave)
    assert back
    assert shards.fingerprint == build_shards(config, str(tmp_path / "undisturbed")).fingerprint


def test_parts_go_when_a_build_was_killed_before_it_could_remove_them(tmp_path, monkeypatch):
    config = config_of(NOTES, tmp_path / "n.jsonl")

    def killed(parts):
        (tmp_path / "set" / "parts" / f".000000-000001.part.{'0' * 32}").write_text("cut while it was written")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_remove_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            build_shards(config, str(tmp_path / "set"))
    build_shards(config, str(tmp_path / "set"))
    assert not (tmp_path / "set" / "parts").exists()


def test_a_home_and_an_address_of_a_file_are_one_place_to_all_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = config_of(NOTES, tmp_path / "n.jsonl")
    for out, place in (("~/home", "home"), (f"file://{tmp_path}/address", "address")):
        shards = build_shards(config, out)
        assert shards.uri == open_shards(out).uri == str(tmp_path / place)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["address", "home", "n.jsonl"]


@pytest.mark.parametrize("out", ["", "shards", "deep/er"])
def test_shards_do_not_go_among_the_notes(tmp_path, out):
    (tmp_path / "notes").mkdir()
    config_of(NOTES, tmp_path / "notes" / "n.jsonl")
    config = CorpusConfig(sources=(SourceConfig(uri=str(tmp_path / "notes")),))
    with pytest.raises(ConfigError, match="must not be in the source"):
        build_shards(config, str(tmp_path / "notes" / out))
    (tmp_path / "link").symlink_to(tmp_path / "notes")
    with pytest.raises(ConfigError, match="must not be in the source"):
        build_shards(config, str(tmp_path / "link" / out))
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["n.jsonl"]


def test_file_length_changes_no_row(tmp_path):
    small, large = (
        build_shards(config_of(NOTES, tmp_path / "n.jsonl", shard_tokens=tokens), str(tmp_path / str(tokens)))
        for tokens in (7, 100_000)
    )
    assert len(small.manifest.splits["train"].files) > 100
    assert len(large.manifest.splits["train"].files) == 1
    rows = [list(built.rows("train", 33)) for built in (small, large)]
    assert all((a == b).all() for a, b in zip(*rows, strict=True))


def test_progress_counts_the_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 500)
    seen = []
    build_shards(config_of(NOTES, tmp_path / "n.jsonl"), str(tmp_path / "set"), on_progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert seen[-1] == len(NOTES)


def test_a_given_tokenizer_is_used_and_saved(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "given")
    config = config_of(NOTES, tmp_path / "n.jsonl", tokenizer=str(tmp_path / "given"))
    built = build_shards(config, str(tmp_path / "set"))
    saved = load_tokenizer(str(built.tokenizer_dir))
    assert built.vocab_size == len(tokenizer)
    assert saved("chest pain")["input_ids"] == tokenizer("chest pain")["input_ids"]
    unused = config.model_copy(update={"vocab_size": 999})
    assert build_shards(unused, str(tmp_path / "set")).fingerprint == built.fingerprint


def test_vocabularies_beyond_16_bits(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{n}" for n in range(70_000))]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **names).save_pretrained(
        tmp_path / "words"
    )
    texts = [f"w{69_999 - n} w{n}" for n in range(30)]
    config = config_of(texts, tmp_path / "n.jsonl", tokenizer=str(tmp_path / "words"), validation_fraction=0)
    built = build_shards(config, str(tmp_path / "set"))
    assert built.manifest.dtype == "uint32"
    assert stream_of(built, "train").tolist()[:6] == [70_004, 5, 2, 70_003, 6, 2]


@pytest.mark.parametrize(("strange", "said"), [(0, 0), (1, 1), (5, 5), (6, None)])
def test_a_tokenizer_that_does_not_know_the_notes_is_remarked_on_or_refused(tmp_path, strange, said):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "pain"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **names).save_pretrained(tmp_path / "few")
    texts = [" ".join(["PAIN"] * strange + ["pain"] * (10 - strange))]
    config = config_of(texts, tmp_path / "n.jsonl", tokenizer=str(tmp_path / "few"), validation_fraction=0)
    if said is None:
        with pytest.raises(DataError, match="must know most of the notes, and 6 of their 10 tokens are <unk>"):
            build_shards(config, str(tmp_path / "set"))
    else:
        remarks = build_shards(config, str(tmp_path / "set")).manifest.remarks
        assert [number for remark, number in remarks.items() if "does not know" in remark] == [said] * (said > 0)


def test_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no note for training.*left out: \{'empty': 2\}"):
        build_shards(config_of(["", " "], tmp_path / "n.jsonl"), str(tmp_path / "set"))
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_corpus_without_held_out_notes_has_no_validation_rows(tmp_path):
    built = build_shards(config_of(NOTES, tmp_path / "n.jsonl", validation_fraction=0), str(tmp_path / "set"))
    assert len(built.rows("validation", 64)) == 0
    assert built.rows("validation", 64).packing_efficiency == 1.0


def test_a_damaged_source_stops_the_build(tmp_path):
    config = config_of(NOTES, tmp_path / "n.jsonl")
    with (tmp_path / "n.jsonl").open("a") as stream:
        stream.write('\n{"text": "cut he')
    with pytest.raises(DataError, match="line 61 is not valid JSON"):
        build_shards(config, str(tmp_path / "set"))
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_build_to_and_open_from_an_object_store(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("CLINSCALE_CACHE", str(tmp_path / "cache"))
    config = config_of(NOTES, tmp_path / "n.jsonl")
    local = build_shards(config, str(tmp_path / "set"))
    remote = build_shards(config, "memory://bucket/set")
    assert remote.uri == "memory://bucket/set"
    assert remote.fingerprint == local.fingerprint
    assert (remote.rows("train", 64)[3] == local.rows("train", 64)[3]).all()
    assert remote.tokenizer_dir.is_relative_to(tmp_path / "cache")
    assert remote.tokenizer_dir.parent.stat().st_mode & 0o077 == 0, "tokens are patient text: for this user only"
    assert build_shards(config, "memory://bucket/set").fingerprint == local.fingerprint
    fsspec.filesystem("memory").rm("/bucket", recursive=True)
    other = build_shards(config_of(NOTES[:30], tmp_path / "n.jsonl"), "memory://bucket/set")
    assert other.fingerprint != remote.fingerprint
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sources": []}, "sources"),
        ({"vocab_size": 260}, "vocab_size.*261"),
        ({"validation_fraction": 1}, "validation_fraction.*less than 1"),
        ({"shard_tokens": 0}, "shard_tokens"),
        ({"clean": {}}, "did you mean cleaning?"),
    ],
)
def test_impossible_configs_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        CorpusConfig.parse({"sources": [{"uri": "x"}], **values}, source="test")


def test_notes_with_zero_bytes_are_remarked_on_and_read_as_they_are(tmp_path):
    config = config_of([*(f"{text}\0 end" for text in NOTES), "\0\0"], tmp_path / "n.jsonl")
    built = build_shards(config, str(tmp_path / "set"))
    assert built.manifest.remarks == {"notes with zero bytes, which predict refuses": len(NOTES)}
    assert built.manifest.left_out == {"empty": 1}
    tokenizer = load_tokenizer(str(built.tokenizer_dir))
    read = "".join(tokenizer.decode(stream_of(built, split)) for split in ("train", "validation"))
    assert read.count("well.\0 end") == len(NOTES)
