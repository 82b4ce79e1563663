"""Plain English: each first sentence can be read alone, and dull words say what happens."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clinscale"
MODULES = sorted(PACKAGE.rglob("*.py"))

DANGLING = re.compile(
    r"(Above|After|Against|Along|Among|And|As|At|Because|Before|Below|Beside|Between|But|By|Down|For|From|His"
    r"|How|If|In|Into|It|Its|Like|Of|Off|On|Onto|Or|Out|Over|Per|Since|So|Such|Than|That|Their|They|Those|Through|To"
    r"|Under|Until|Up|Via|What|Whatever|When|Where|Which|While|Who|Whoever|Whom|Whose|Why|With|Within|Without)(?![\w-])"
)
"""Words that lean on something before them, which is not there when a docstring is read alone.

A first sentence names the thing (`Seed of the split`) or says what happens (`Return ...`, `Whether ...`).
"""


POETIC = re.compile(r"\b(mend(s|ed)?|told|lies|stands|thereby|whence|whoever|doomed)\b(?!-off)", re.IGNORECASE)
"""Words for which fix, reported, shown, is or are will do."""


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Those of modules, classes and functions, and the strings below assignments."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for before, statement in zip([None, *body], body, strict=False):
            is_first = before is None and documented
            if is_first or isinstance(before, ast.Assign | ast.AnnAssign):
                match statement:
                    case ast.Expr(value=ast.Constant(value=str()) as text):
                        yield text


def dangling(source: str) -> list[str]:
    found = []
    for text in docstrings(ast.parse(source)):
        words = str(text.value).split()
        if DANGLING.match(" ".join(words)):
            found.append(f"line {text.lineno}: {' '.join(words[:8])}")
    return found


def poetic(source: str) -> list[str]:
    """Those in comments, docstrings and messages; names, also within braces, are no sentences."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        words = token.string if token.type == tokenize.COMMENT else ""
        if token.type == tokenize.STRING and re.search(r"\s", token.string):
            words = re.sub(r"\{[^}]*\}", "", token.string)
        found += [f"line {token.start[0]}: {one.group()}" for one in POETIC.finditer(words)]
    return found


@pytest.mark.parametrize(
    "sentence",
    ["Of the split.", "That many.", "From where it goes on.", "By name.", "In which it fails.", "What is read."],
)
@pytest.mark.parametrize(
    "code",
    [
        "'''{}'''",
        "class A:\n '''{}'''",
        "def f():\n '''{}'''",
        "x = 1\n'''{}'''",
        "class A:\n x: int = 1\n '''{}'''",
    ],
)
def test_a_sentence_that_cannot_be_read_alone_is_found_wherever_it_is(code: str, sentence: str):
    assert len(dangling(code.format(sentence))) == 1


@pytest.mark.parametrize(
    "sentence", ["Seed of the split.", "Whether it ends.", "On-premise cluster.", "Return it."]
)
def test_a_noun_or_a_verb_may_begin_a_docstring(sentence: str):
    assert not dangling(f"'''{sentence}'''")


def test_first_sentences_of_docstrings_name_the_thing():
    found = [f"{path.relative_to(PACKAGE)} {one}" for path in MODULES for one in dangling(path.read_text())]
    assert not found, "name the thing, or begin with a verb:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code", ["# it lies there", "'mend it'", "f'{x} stands here'", "def f():\n 'It is told.'"]
)
def test_a_poetic_word_is_found_in_comments_messages_and_docstrings(code: str):
    assert len(poetic(code)) == 1


@pytest.mark.parametrize("code", ["told = 1", "{'mend': 1}", "f'{fault.mend} it'", "# stand-off files of brat"])
def test_names_and_terms_of_the_field_are_no_poetic_words(code: str):
    assert not poetic(code)


def test_comments_docstrings_and_messages_use_dull_words():
    suspects = [(path, text) for path in MODULES if POETIC.search(text := path.read_text())]
    found = [f"{path.relative_to(PACKAGE)} {one}" for path, text in suspects for one in poetic(text)]
    assert not found, "say fix, reported, shown, is or are:\n" + "\n".join(found)
