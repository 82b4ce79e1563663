"""The model card is Markdown that renders."""

from markdown_it import MarkdownIt

from clinscale.registry import write_card
from clinscale.visible import STEERING


def test_rows_are_tables_and_the_files_are_hashed(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    rows = [{"metric": "f1", "value": 0.85094}, {"metric": "a|b", "value": 1234}]
    write_card(
        tmp_path, title="ward", about="Labels.", sections={"Scores": rows, "Nothing": []}, metadata={"tags": ["x"]}
    )
    text = (tmp_path / "README.md").read_text().split("---\n", 2)[2]
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.count("<table>") == 2, "scores and files"
    cells = [cell.replace("\u00a0", "") for cell in page.split("<td>")[1:]]
    assert [cell.split("</td>")[0] for cell in cells[:4]] == ["f1", "0.8509", "a|b", "1,234"]
    assert "Nothing" not in page
    assert "config.json" in page


def test_no_name_steers_a_terminal_that_shows_the_card(tmp_path):
    rows = [{"label": "\x1b]0;x\x07\u202e", "n": 1}]
    write_card(
        tmp_path, title="a\x1b[2J", about="b\u2066", sections={"Labels": rows}, metadata={"tags": ["\u202e"]}
    )
    assert not STEERING.search((tmp_path / "README.md").read_text())
