"""A list of data sets: one table, and a run that goes on where it was interrupted."""

import json
from functools import partial

import pytest

from jaxseg.errors import UserError
from jaxseg.eval.listed import Listed, judge_list, read_list, render, summary
from tests.eval.told import evaluate, save_coco


def result(ap: float | None, images: int = 2) -> dict:
    return {"metrics": {"AP": ap}, "images": images}


def test_average_and_median_are_of_the_sets_with_objects():
    results = {"a": result(0.1), "b": result(0.2), "c": result(None), "d": result(0.9)}
    assert summary(results) == {"average": pytest.approx(0.4), "median": 0.2}
    assert summary({"c": result(None)}) == {"average": None, "median": None}
    rows = [line.split() for line in render(results).splitlines()]
    assert rows[0] == ["data", "set", "AP", "images"]
    assert rows[3:] == [["c", "-", "2"], ["d", "0.900", "2"], ["average", "0.400"],
                        ["median", "0.200"]]  # fmt: skip


def test_what_was_judged_before_an_interruption_is_not_judged_again():
    sets = [Listed(name, f"{name}.json", {}) for name in "abc"]
    judged, saved = [], []

    def judge(one, stop=None):
        if one.name == stop:
            raise KeyboardInterrupt
        judged.append(one.name)
        return result(0.5)

    save = lambda results: saved.append(dict(results))  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        judge_list(sets, partial(judge, stop="c"), {}, save, lambda line: None)
    assert [list(x) for x in saved] == [["a"], ["a", "b"]]
    said = []
    results = judge_list(sets, judge, saved[-1], save, said.append)
    assert judged == ["a", "b", "c"]
    assert list(results) == ["a", "b", "c"]
    assert said[0] == "1 of 3: a, AP 0.500 (done before)"
    other = [sets[0], Listed("b", "b.json", {"cat": "kitten"}), Listed("c", "other.json", {})]
    judge_list(other, judge, results, save, said.append)
    assert judged == ["a", "b", "c", "b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read"),
        ("{}", "is no list of data sets"),
        ("[]", "is no list of data sets"),
        ('[{"name": "a"}]', 'has the entry {"name": "a"}'),
        ('[{"name": "a", "data": "x", "dat": "y"}]', "has the entry"),
        ('[{"name": "a", "data": "x", "names": ["y"]}]', "has the entry"),
        ('[{"name": "a", "data": "x", "names": {"y": ""}}]', "has the entry"),
        ('["x.json"]', "has the entry"),
        ('[{"name": "a", "data": "x"}, {"name": "a", "data": "y"}]', "two data sets of the name"),
    ],
)
def test_mistakes_in_a_list_are_told(content, message, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_list(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path / "nothing.json")


@pytest.fixture
def entries(tmp_path):
    """A list of a set with objects and one without."""
    full = save_coco(tmp_path / "full" / "data.json", ["cat", "dog (toy)"])
    empty = save_coco(tmp_path / "empty" / "data.json", ["cat"], objects=False)
    path = tmp_path / "list.json"
    names = {"dog (toy)": "puppet"}
    listed = [{"name": "Full", "data": str(full), "names": names}]
    path.write_text(json.dumps([*listed, {"name": "Empty", "data": f"coco:{empty}"}]))
    return path


def test_the_command_judges_each_set_and_a_second_run_none(entries, tmp_path, monkeypatch, capsys):
    metrics = tmp_path / "metrics.json"
    assert evaluate(monkeypatch, f"list:{entries}", "--json", metrics) == 0
    first, answer = capsys.readouterr().out, json.loads(metrics.read_text())
    assert list(answer["sets"]) == ["Full", "Empty"]
    assert answer["sets"]["Empty"]["metrics"]["AP"] is None
    assert answer["average"] == answer["median"] == answer["sets"]["Full"]["metrics"]["AP"]
    assert "dog (toy)" in answer["sets"]["Full"]["per_class"]
    assert "done before" not in first
    monkeypatch.setattr("jaxseg.eval.runner.Evaluator.evaluate", None)
    assert evaluate(monkeypatch, f"list:{entries}", "--json", metrics) == 0
    again = capsys.readouterr().out
    assert again.count("done before") == 2
    assert again.splitlines()[-4:] == first.splitlines()[-4:]
    assert json.loads(metrics.read_text()) == answer


def test_a_file_of_other_settings_is_not_gone_on_with(entries, tmp_path, monkeypatch, capsys):
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"settings": {"weights": "others"}, "sets": {}}))
    assert evaluate(monkeypatch, f"list:{entries}", "--json", metrics) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "was begun with weights 'others', and this run has 'told'" in said
    metrics.write_text("{}")
    assert evaluate(monkeypatch, f"list:{entries}", "--json", metrics) == 2
    assert "is not what a list of data sets wrote" in capsys.readouterr().err.replace("\n", " ")
    assert metrics.read_text() == "{}"


def test_a_list_is_of_classes_and_of_one_file_of_numbers(entries, tmp_path, monkeypatch, capsys):
    assert evaluate(monkeypatch, f"list:{entries}", "--results", tmp_path / "results.json") == 2
    assert "--results is of one data set" in capsys.readouterr().err
    content = json.loads((tmp_path / "full" / "data.json").read_text())
    for image in content["images"]:
        image["caption"] = "a cat"
    content["annotations"] = content["annotations"][::2]
    expressions = tmp_path / "full" / "expressions.json"
    expressions.write_text(json.dumps(content))
    entries.write_text(json.dumps([{"name": "R", "data": f"refcoco:{expressions}"}]))
    assert evaluate(monkeypatch, f"list:{entries}") == 2
    assert "R has referring expressions" in " ".join(capsys.readouterr().err.split())
