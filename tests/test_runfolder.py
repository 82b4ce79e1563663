"""One name stands for one recipe."""

import shutil
import subprocess
import sys

import pytest

from clinscale import runfolder
from clinscale.errors import ChangedDataError, ClusterError, ConfigError
from clinscale.runfolder import check_run_folder, check_unchanged, claim_run_folder, refuse_copy, sole_writer


def test_the_same_recipe_returns_the_same_folder(tmp_path):
    first = claim_run_folder(tmp_path, "sweep", "a", {"seed": 1, "model": {"size": "tiny"}})
    assert claim_run_folder(tmp_path, "sweep", "a", {"model": {"size": "tiny"}, "seed": 1}) == first
    assert first == tmp_path / "sweep" / "a"


def test_another_recipe_is_refused_naming_what_differs(tmp_path):
    claim_run_folder(tmp_path, "sweep", "a", {"seed": 1, "model": {"size": "tiny"}})
    with pytest.raises(
        ConfigError, match=r"differing: model\.size: tiny -> base; seed: 1 -> 2\. Use another name"
    ):
        claim_run_folder(tmp_path, "sweep", "a", {"seed": 2, "model": {"size": "base"}})
    claim_run_folder(tmp_path, "pretrain", "a", {"seed": 2})


def test_a_folder_that_no_run_has_made_is_refused_and_stays(tmp_path):
    theirs = tmp_path / "finetune" / "a" / "seed-0" / "hf" / "mine.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    for claim in (claim_run_folder, check_run_folder):
        with pytest.raises(
            ConfigError, match=r"finetune/a must be a new or an empty folder .*holds 'seed-0' without"
        ):
            claim(tmp_path, "finetune", "a", {})
    assert [path for path in (tmp_path / "finetune").rglob("*") if path.is_file()] == [theirs]
    started = tmp_path / "sweep" / "a"  # killed before it had written its recipe
    started.mkdir(parents=True)
    (started / ".recipe.json.1").touch()
    claim_run_folder(tmp_path, "sweep", "a", {})


def test_an_input_that_is_another_one_by_now_is_refused(tmp_path):
    check_unchanged(tmp_path, "model a", "1")
    check_unchanged(tmp_path, "model b", "2")
    check_unchanged(tmp_path, "model a", "1")
    with pytest.raises(ChangedDataError, match=r"model a changed .*fingerprint 1 before, 3 now"):
        check_unchanged(tmp_path, "model a", "3")


def test_a_run_that_was_copied_is_not_gone_on_with_under_the_copys_name(tmp_path):
    config = claim_run_folder(tmp_path, "sweep", "a", {}) / "config.json"
    config.write_text('{"name": "a"}')
    refuse_copy(config)
    shutil.copytree(config.parent, tmp_path / "sweep" / "b")
    with pytest.raises(ConfigError, match=r"sweep/b holds sweep run a, which it was copied or renamed from"):
        refuse_copy(tmp_path / "sweep" / "b" / "config.json")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "a@b", "a:b", "a+b", "ä", "-a", "a\n"])
def test_names_that_are_no_plain_words_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="plain word"):
        claim_run_folder(tmp_path / "home", "sweep", name, {})
    assert not (tmp_path / "home").exists()


def test_two_recipes_that_claim_a_name_at_the_same_moment_are_never_mixed(tmp_path, monkeypatch):
    write = runfolder.write_json

    def write_second(uri, values):
        """Another process claims the name after this one has seen that it is free."""
        monkeypatch.setattr(runfolder, "write_json", write)
        claim_run_folder(tmp_path, "pretrain", "a", {"steps": 1})
        write(uri, values)

    monkeypatch.setattr(runfolder, "write_json", write_second)
    with pytest.raises(ConfigError, match="steps"):
        claim_run_folder(tmp_path, "pretrain", "a", {"steps": 2})
    folder = claim_run_folder(tmp_path, "pretrain", "a", {"steps": 1})
    assert [path.name for path in folder.iterdir()] == [runfolder.RECIPE_FILE]


def test_a_run_has_one_writer_until_it_ends_or_dies(tmp_path):
    folder = claim_run_folder(tmp_path, "pretrain", "base", {})
    hold = "import sys, pathlib, clinscale.runfolder as r\nwith r.sole_writer(pathlib.Path(sys.argv[1])):\n"
    hold += "    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ClusterError, match=r"pretrain run base is being run by another process.*wait for it"):
        with sole_writer(folder):
            pass
    other.kill()
    other.communicate()
    with sole_writer(folder), pytest.raises(ClusterError), sole_writer(folder):
        pass
    with sole_writer(folder):
        pass


def test_a_folder_that_was_replaced_is_no_longer_held(tmp_path):
    folder = claim_run_folder(tmp_path, "pretrain", "lf", {"a": 1})
    with sole_writer(folder) as still_held:
        still_held()
        shutil.copytree(folder, tmp_path / "backup")
        folder.rename(tmp_path / "aside")
        (tmp_path / "backup").rename(folder)
        with pytest.raises(
            ClusterError, match=r"pretrain run lf ends, as .* was deleted or replaced while it ran"
        ):
            still_held()
    with sole_writer(folder):
        pass
