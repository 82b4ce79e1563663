import html.parser
import re

import pytest

from clinscale import registry
from clinscale.errors import DataError, RegistryError
from clinscale.registry import Tag
from clinscale.report import write_report
from clinscale.visible import STEERING

VOID = {"meta", "br", "link", "img"}


class Page(html.parser.HTMLParser):
    """Text, elements and attributes of a page; fails on elements that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.attributes = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def __contains__(self, words):
        return words in re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture
def written(past, tracking, tmp_path):
    """The page on one base, one promoted task model and one task model of a hub base."""
    base = past.pretraining("notes-base", "longformer", steps=40)
    version = past.sweep(
        "search-one", "demo_pairs", "pair", "accuracy", "longformer", base.label, trials=4, failed=(1,)
    )
    registry.set_alias(tracking, version)
    told = {Tag.LINEAR: "0.987", Tag.REMARK: "accuracy does not beat the <linear> baseline's"}
    registry.set_version_tags(tracking, version, told)
    past.sweep("search-two", "demo_spans", "spans", "f1", "bigbird", "google/bigbird-roberta-base", trials=2)
    return write_report(tracking, tmp_path / "out" / "report.html")


def test_the_page_tells_what_the_registry_knows(written, tracking):
    page = Page(written.read_text())
    version = registry.resolve(tracking, "demo_pairs")
    for words in (
        "demo_pairs/1",
        "champion",
        "notes-base/1",
        "search-one",
        "search-two",
        "0.350",
        "linear 0.987",
        "demo_pairs/1: accuracy does not beat the <linear> baseline's",
        "failed",
        "winner",
    ):
        assert words in page, words
    assert f"{float(version.tags[Tag.VALUE]):.3f}" in page
    assert "google/bigbird-roberta-base not in this registry" in page
    assert page.elements.count("svg") == 2 + 2 + 2, "two curves, two searches, two bars"


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(written):
    page = Page(written.read_text())
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.elements)
    outward = [
        value
        for name, value in page.attributes
        if name in ("href", "src", "xlink:href") and not value.startswith("#")
    ]
    assert outward == []
    assert "@import" not in written.read_text()
    assert not re.findall(r"url\((?!#)", written.read_text())


def test_the_same_registry_gives_the_same_bytes(written, tracking, tmp_path):
    assert write_report(tracking, tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_charts_and_tables_are_named_for_screen_readers(written):
    page = Page(written.read_text())
    spoken = [value for name, value in page.attributes if name == "aria-label"]
    assert len([text for text in spoken if "of notes-base by step" in text]) == 2
    assert "Trials of search-one" in spoken


def test_names_cannot_smuggle_markup_into_the_page(past, tracking, tmp_path):
    attack = "<script>alert(1)</script>"
    tags = {Tag.KIND: "sweep", Tag.TASK: attack, Tag.METRIC: attack}
    sweep = past.run("clinscale-sweep", attack, tags, {})
    past.run("clinscale-sweep", attack, {Tag.KIND: "trial"}, {"model": attack}, sweep.id).end()
    run = past.run("clinscale-pretrain", attack, {Tag.KIND: "pretrain", Tag.SHARDS: attack}, {})
    run.log({"train/loss": 2.0}, step=0)
    run.log({"train/loss": 1.0}, step=1)
    past.version(sweep, "demo", {Tag.KIND: "task", Tag.TASK: attack, Tag.BASE: attack, Tag.VALUE: attack})
    page = Page(write_report(tracking, tmp_path / "report.html").read_text())
    assert "script" not in page.elements
    assert attack in page


def test_no_name_changes_the_order_of_writing_or_breaks_the_page(past, tracking, tmp_path):
    attack = "\u202egpj\x1b[2J\u2066\x00"
    tags = {Tag.KIND: "sweep", Tag.TASK: attack, Tag.METRIC: attack}
    sweep = past.run("clinscale-sweep", attack, tags, {})
    past.run("clinscale-sweep", attack, {Tag.KIND: "trial"}, {"model": attack}, sweep.id).end()
    text = write_report(tracking, tmp_path / "report.html").read_text()
    assert not STEERING.search(text)
    assert "\\u202egpj\\x1b[2J\\u2066\\x00" in text


def test_an_empty_registry_has_a_page_that_says_so(tracking, tmp_path):
    page = Page(write_report(tracking, tmp_path / "report.html").read_text())
    assert "Nothing here yet" in page
    assert str(tmp_path / "mlflow.db") in page


@pytest.mark.parametrize("kind", ["pretrain", "sweep", "finetune"])
def test_a_run_that_has_only_begun_has_a_page(past, tracking, tmp_path, kind):
    past.run(f"clinscale-{kind}", "begun", {Tag.KIND: kind}, {})
    page = Page(write_report(tracking, tmp_path / "report.html").read_text())
    assert "begun running" in page
    assert "No task model is registered yet" in page


def test_a_server_that_fails_leaves_the_old_page(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1"):
        write_report(registry.Tracking("http://127.0.0.1:1", None), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_hold_the_page_is_named(tracking, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"report\.html cannot be written"):
        write_report(tracking, tmp_path / "file" / "report.html")


def test_the_page_is_its_owners_until_he_shares_it(written):
    assert written.stat().st_mode & 0o077 == 0
