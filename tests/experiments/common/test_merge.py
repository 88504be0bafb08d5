"""Reports that are made in pieces."""

import json

import numpy as np
import pytest

from experiments.common.merge import Planned, check_planned, merge, rows_with_sources
from experiments.common.report import aggregate, read_report, write_report

FIELDS = ("seconds", "kept")


def row(name, seeds, settings=None, diverged=(), **more):
    """A row of some seeds; a seed has the same numbers in whatever piece it is made."""
    rng = [np.random.default_rng(seed) for seed in seeds]
    results = [
        {
            "test_error": r.normal(),
            "validation_error": r.normal(),
            "seconds": r.normal(),
            "kept": [3],
        }
        for r in rng
    ]
    made = {"name": name, "seeds": list(seeds), "settings": settings or {"rate": 0.1}} | more
    if diverged:
        made["diverged_seeds"] = list(diverged)
    return made | (aggregate(results, FIELDS) if results else {})


def without_source(rows):
    return [{k: v for k, v in row.items() if k != "made_by"} for row in rows]


@pytest.mark.parametrize("pieces", [([0, 1], [2]), ([2], [0, 1]), ([1], [0], [2]), ([0, 1, 2],)])
def test_the_order_of_the_pieces_does_not_matter(pieces):
    there = []
    for number, seeds in enumerate(pieces):
        ours = [row("a", seeds), row(f"only {number}", [7])]
        there = merge(there, ours, FIELDS, f"run {number}")
    assert without_source(there)[0] == row("a", [0, 1, 2])
    assert there[0]["made_by"] == [f"run {number}" for number in range(len(pieces))]
    assert [one["name"] for one in there[1:]] == [f"only {n}" for n in range(len(pieces))]
    assert [one["made_by"] for one in there[1:]] == [[f"run {n}"] for n in range(len(pieces))]


def test_a_seed_that_is_made_again_is_replaced():
    old = merge([], [row("a", [0, 1], note="old")], FIELDS, "old")
    ours = row("a", [1, 2]) | {"note": "new"}
    ours["seconds"] = [10.0, 20.0]
    (both,) = merge(old, [ours], FIELDS, "new")
    assert both["seconds"] == [row("a", [0])["seconds"][0], 10.0, 20.0]
    assert both["note"] == "new"
    (all_again,) = merge([both], [row("a", [0, 1, 2])], FIELDS, "last")
    assert all_again == row("a", [0, 1, 2]) | {"made_by": ["last"]}


def test_seeds_that_diverge_are_counted_once():
    old = merge([], [row("a", [0, 1])], FIELDS, "old")
    (both,) = merge(old, [row("a", [], diverged=[2])], FIELDS, "new")
    assert without_source([both]) == [row("a", [0, 1], diverged=[2])]
    (again,) = merge([both], [row("a", [2], diverged=[0])], FIELDS, "newer")
    assert without_source([again]) == [row("a", [1, 2], diverged=[0])]
    (none,) = merge([], [row("b", [], diverged=[0])], FIELDS, "new")
    (none,) = merge([none], [row("b", [], diverged=[1])], FIELDS, "newer")
    assert none["seeds"] == []
    assert none["diverged_seeds"] == [0, 1]
    assert "test_error" not in none


def test_a_field_that_some_seeds_lack_is_left_out():
    old = row("a", [0])
    del old["test_error"]
    (both,) = merge(merge([], [old], FIELDS, "old"), [row("a", [1])], FIELDS, "new")
    assert "test_error" not in both
    assert len(both["validation_error"]["values"]) == 2
    (again,) = merge([both], [row("a", [0, 1])], FIELDS, "newest")
    assert len(again["test_error"]["values"]) == 2


def test_a_list_is_not_taken_for_values_of_seeds_by_its_length():
    old, new = row("a", [0], shape=[3]), row("a", [1], shape=[3])
    (both,) = merge(merge([], [old], FIELDS, "old"), [new], FIELDS, "new")
    assert both["shape"] == [3]


def test_a_row_that_is_made_again_whole_may_have_other_settings():
    again = row("a", (0, 1, 2), {"rate": 0.2})
    (found,) = merge([row("a", (0, 1)) | {"made_by": ["before"]}], [again], (), "now")
    assert found == again | {"made_by": ["now"]}


def test_other_settings_are_refused_by_name():
    old = merge([], [row("a", [0], {"rate": 0.1, "epochs": 3})], FIELDS, "old")
    with pytest.raises(ValueError, match=r"a was made with other settings .*: rate 0.1 .*, 0.2"):
        merge(old, [row("a", [1], {"rate": 0.2, "epochs": 3})], FIELDS, "new")
    # What JSON cannot tell apart is no difference.
    old = merge([], [row("a", [0], {"shape": [1, 2]})], FIELDS, "old")
    merge(old, [row("a", [1], {"shape": (1, 2)})], FIELDS, "new")


def refused(function, *given):
    try:
        function(*given)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("there", [((0,), ()), ((0, 1), ()), ((0,), (1,)), ((), (1,))])
@pytest.mark.parametrize("same", [False, True])
def test_what_is_planned_is_refused_if_and_only_if_what_is_made_of_it_is(there, same):
    old = merge([], [row("a", there[0], diverged=there[1]), row("b", [0])], FIELDS, "old")
    settings = {"rate": 0.1 if same else 0.2}
    for seeds in ((0,), (1,), (2,), (0, 1), (0, 1, 2)):
        planned = [Planned("a", settings | {"row": "a", "seed": seed}, seed) for seed in seeds]
        planned.append(Planned("new", {"rate": 0.3}, 0))
        for count in range(len(seeds) + 1):  # so many diverge
            made = [row("a", seeds[count:], settings, seeds[:count]), row("new", [0])]
            expected = refused(merge, old, made, FIELDS, "new")
            assert refused(check_planned, old, planned) == expected
            assert (expected is None) == (same or set(sum(there, ())) <= set(seeds))


def test_rows_say_what_made_them(tmp_path):
    assert rows_with_sources(read_report(tmp_path)) == []
    write_report(tmp_path, "toy", "first command", [row("a", [0])])
    (found,) = rows_with_sources(read_report(tmp_path))
    assert found["made_by"][0].startswith("Made by `first command` on")
    write_report(tmp_path, "toy", "second command", [found | {"made_by": ["another"]}])
    assert rows_with_sources(read_report(tmp_path))[0]["made_by"] == ["another"]
    assert json.loads((tmp_path / "report.json").read_text())["command"] == "second command"
