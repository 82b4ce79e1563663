import pickle
from typing import Any, Literal

import pytest

from clinscale.config import Config, differences, fingerprint, key_paths, merge, nearest, nest
from clinscale.errors import ConfigError
from clinscale.units import Duration


class Inner(Config):
    rate: float = 1e-4
    """Learning rate."""
    kind: Literal["a", "b"] = "a"
    """Which."""


class Outer(Config):
    name: str
    """Required."""
    seed: int = 0
    """Seed."""
    inner: Inner = Inner(kind="b")
    """Nested."""
    parts: tuple[Inner, ...] = ()
    """Several."""
    duration: Duration = Duration(1, "epochs")
    """How long."""

    def check(self) -> None:
        if self.seed == 13:
            raise ConfigError("seed must not be 13; take 14")


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_yaml_and_overrides_make_a_config(tmp_path):
    path = written(tmp_path, "name: base\ninner: {rate: 3e-5}\nduration: 2epochs\n")
    config = Outer.load(path, ["inner.kind=b", "seed=7"])
    assert config == Outer(name="base", seed=7, inner=Inner(rate=3e-5, kind="b"), duration=Duration(2, "epochs"))


def test_numbers_in_scientific_notation_are_floats(tmp_path):
    """YAML 1.1 reads `1e-4` as a string, and `1e-4` is how everyone writes a learning rate."""
    assert Outer.load(written(tmp_path, "name: x\ninner: {rate: 1e-3}")).inner.rate == 1e-3
    assert Outer.load(None, ["name=x", "inner.rate=2E-5"]).inner.rate == 2e-5


def test_override_reaches_below_an_empty_section(tmp_path):
    assert Outer.load(written(tmp_path, "name: x\ninner:\n"), ["inner.rate=0.5"]).inner.rate == 0.5


def test_file_lies_over_base_and_overrides_over_both(tmp_path):
    config = Outer.load(written(tmp_path, "seed: 2"), ["inner.rate=3"], base={"name": "b", "seed": 1})
    assert (config.name, config.seed, config.inner.rate) == ("b", 2, 3.0)


def test_a_part_of_a_section_leaves_the_rest_as_this_configs_default_has_it(tmp_path):
    assert Inner().kind == "a"
    assert Outer.load(written(tmp_path, "name: a\ninner: {rate: 3}")).inner == Inner(rate=3, kind="b")
    assert Outer.load(None, ["inner.rate=3"], base={"name": "a"}).inner.kind == "b"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("name: x\nsed: 1", [], ["run.yaml", "sed is not a known key", "did you mean seed?"]),
        ("name: x\ninner: {seed: 1}", [], ["inner.seed is not a known key", "did you mean seed?"]),
        ("name: x\ninner: {Rate: 1}", [], ["inner.Rate", "did you mean rate?"]),
        ("name: x\nparts: [{rat: 1}]", [], ["parts.0.rat", "did you mean rate?"]),
        ("seed: 1", [], ["name is required", "name=..."]),
        ("name: x\nseed: many", [], ["seed", "integer", "'many'"]),
        ("name: x\ninner: {kind: c}", [], ["inner.kind", "'a' or 'b'", "'c'"]),
        ("name: x\ninner: {kind: A}", [], ["inner.kind", "'a' or 'b'", "'A'; did you mean a?"]),
        ("name: x\ninner: {rate: .nan}", [], ["inner.rate", "finite"]),
        ("name: x\nduration: forever", [], ["run.yaml", "duration", "forever", "200steps"]),
        ("name: x\nseed: 13", [], ["seed must not be 13"]),
        ("name: x\nname: y", [], ["line 2", "'name' is given twice"]),
        ("name: [x", [], ["run.yaml", "line 1", "fix the YAML"]),
        ("? [a, b]\n: c", [], ["run.yaml", "line 1"]),
        ("- name", [], ["must be a mapping", "list"]),
        ("name: x", ["seed"], ["override 'seed'", "key.path=value"]),
        ("name: x", ["=3"], ["override", "key.path=value"]),
        ("name: x", ["seed="], ["override 'seed=' has no value", "seed=null"]),
        ("name: x", ["name=1e999"], ["name must be a finite number", "in quotes"]),
        ("name: x", ["seed=[1"], ["seed", "not YAML"]),
        ("name: x", ["name=run #2"], ["name", "only a part of the value"]),
        ("name: x\nseed: true", [], ["seed", "a number, and neither true nor false", "True"]),
        ("name: x", ["inner.rate=false"], ["inner.rate", "a number, and neither true nor false"]),
        ("name: 7", [], ["name", "quote it: '7'"]),
        ("name: 1e5", [], ["name", "quote it: 'TEXT'"]),
        ('name: "a\\0b"', [], ["name", "NUL"]),
        ("name: x\nseed: 010", [], ["seed", "a number as JSON writes one", "'010'"]),
        ('name: x\nseed: "1_000"', [], ["seed", "a number as JSON writes one"]),
        ("name: x\ninner: {rate: 1:30}", [], ["inner.rate", "a number as JSON writes one"]),
        ("name: x", ["seed=1", "seed=2"], ["override seed is given twice"]),
        ("name: x", ["inner={rate: 1}", "inner.rate=2"], ["override inner.rate is given twice"]),
        ("name: x\nPatient fell: 1", [], ["(12 characters) is not a known key"]),
    ],
)
def test_a_wrong_file_or_override_says_where_and_what_to_do(tmp_path, text, overrides, words):
    with pytest.raises(ConfigError) as error:
        Outer.load(written(tmp_path, text), overrides)
    for word in words:
        assert word in str(error.value)


def test_text_that_looks_like_a_number_is_quoted_for_the_shell_too():
    with pytest.raises(ConfigError, match=r"""where it is meant as text, quote it: name="'7'"$"""):
        Outer.load(None, ["name=7"])


def test_a_number_in_quotes_and_an_override_given_twice_alike_are_what_they_say():
    found = Outer.load(None, ["inner.rate='1e-4'", "seed=16", "seed=16"], base={"name": "x"})
    assert (found.inner.rate, found.seed) == (1e-4, 16)


def test_several_faults_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        Outer.load(written(tmp_path, "nam: x\nseed: many"))
    assert len(str(error.value).splitlines()) == 3


def test_missing_unreadable_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Outer.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Outer.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        Outer.load(tmp_path / "binary.yaml")


def test_empty_file_is_all_defaults(tmp_path):
    assert Inner.load(written(tmp_path, "# nothing set\n")) == Inner()


def test_config_is_frozen_and_travels_by_pickle():
    config = Outer(name="x")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert pickle.loads(pickle.dumps(config)) == config


def test_plain_values_parse_back_with_the_same_fingerprint():
    config = Outer(name="x", parts=(Inner(rate=1),), duration=Duration(1234567, "steps"))
    back = Outer.parse(config.plain(), source="test")
    assert back == config
    assert back.fingerprint() == config.fingerprint()


def test_fingerprint_follows_values_only():
    assert Inner(rate=1).fingerprint() == Inner(rate=1.0).fingerprint()
    assert Inner(rate=1).fingerprint() != Inner(rate=2).fingerprint()
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    # a frozen value: fingerprints stored in MLflow long ago must still be found
    assert fingerprint({"rate": 1e-4}) == "45c6916eca9d"


def test_differences_name_the_dotted_keys():
    before = {"seed": 1, "model": {"size": "tiny", "layers": 2}}
    after = {"seed": 1, "model": {"size": "base", "heads": 2}}
    assert differences(before, after) == [
        "model.heads: unset -> 2",
        "model.layers: 2 -> unset",
        "model.size: tiny -> base",
    ]
    assert differences(before, before) == []


def test_a_section_that_only_one_config_has_is_one_difference():
    studies = {"one": {f"key{number}": number for number in range(50)}, "two": {"seed": 1}}
    assert differences({"studies": {}}, {"studies": {"one": {}}}) == ["studies: {} -> {'one': {}}"]
    assert differences({"studies": {"three": 1}}, {"studies": studies | {"three": 1}}) == [
        "studies.one: unset -> 50 settings",
        "studies.two: unset -> {'seed': 1}",
    ]


def test_nearest_ignores_case_and_falls_back_to_the_list():
    assert nearest("text", ["ROW_ID", "TEXT"]) == "did you mean TEXT?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == "known: none"


def test_nest_and_merge():
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    with pytest.raises(ConfigError, match="single value"):
        nest({"a": 1, "a.b": 2})
    base = {"a": {"b": 1}, "c": 1}
    assert merge(base, {"a": {"d": 2}, "c": {"e": 3}}) == {"a": {"b": 1, "d": 2}, "c": {"e": 3}}
    assert base == {"a": {"b": 1}, "c": 1}


def test_key_paths_reach_into_nested_configs():
    assert {"name", "inner.rate", "inner.kind", "duration"} <= set(key_paths(Outer))


@pytest.mark.parametrize("value", ["\ud800", {"\udc00": 1}, [float("nan")], {"a": [float("inf")]}])
def test_no_config_holds_what_no_file_and_no_fingerprint_can(value):
    """Of JSON: YAML's own door refuses them earlier."""
    with pytest.raises(ConfigError, match=r"rates.* must be"):
        Free.parse({"rates": value}, source="card.json")


class Free(Config):
    rates: Any
    """Whatever."""
