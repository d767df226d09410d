"""A check finds each fault once, with its file and row, and nothing in data without one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked_folder import Folder, encoded, photo, recipe_of, sentence
from typer.testing import CliRunner

from cocoa.checking.check import DataCheck, check_data
from cocoa.checking.findings import Finding
from cocoa.checking.lengths import Histogram
from cocoa.cli import app
from cocoa.recipe import Recipe
from cocoa.training.batches import encode_pair
from cocoa.training.setup import backbone_of, open_data


def check(folder: Folder, recipe: Recipe | None = None, **options) -> DataCheck:
    return check_data(recipe or folder.write(), tasks=folder.tasks, workers=2, **options)


def codes(found: DataCheck) -> dict[str, int]:
    return {finding.code: finding.count for finding in found.findings}


def only(found: DataCheck, code: str) -> Finding:
    [finding] = [each for each in found.findings if each.code == code]
    return finding


def test_a_folder_without_faults_has_no_findings(tmp_path: Path) -> None:
    found = check(Folder(tmp_path))
    assert found.findings == ()
    assert (found.num_errors, found.tasks, found.num_pictures) == (0, ("puzzle",), 12 + 10)
    [stage] = found.stages
    assert (stage.num_pairs, stage.num_read, stage.tables[0].rows, stage.tables[0].share) == (12, 12, 12, 1.0)


def seed_faults(folder: Folder) -> dict[str, tuple[str, str]]:
    """Adds every fault once; returns the level and place of each."""
    places: dict[str, tuple[str, str]] = {}
    extra = (encoded(photo(seed)) for seed in range(200, 300))

    def new(name: str) -> str:
        folder.images[name] = next(extra)
        return name

    def fault(code: str, level: str, place: str) -> None:
        places[code] = (level, place)

    folder.images["cut.png"] = encoded(photo(50))[:900]
    fault("E_IMAGE_TRUNCATED", "error", folder.add("<|image_1|>\nIs it cut?", "it is", image="cut.png"))
    fault("E_IMAGE_MISSING", "error", folder.add("<|image_1|>\nIs it there?", "it is not", image="none.png"))
    twice = folder.add("<|image_1|> or <|image_1|>\nWhich?", "the first", image=new("twice.png"))
    fault("E_DATA_PLACEHOLDER", "error", twice)
    row = folder.add("<|image_1|>\nWho am I?", "an otter", image=new("a.png"), negatives=["a fish", "An  otter"])
    fault("POSITIVE_IS_NEGATIVE", "error", row)
    folder.add("<|image_1|>\nTwo of a kind?", "a pair", image=new("b.png"))
    fault("DUPLICATE_PAIR", "warning", folder.add("<|image_1|>\nTwo of a kind?", "a pair", image="b.png"))
    mirror = {"pos_image_path": "c.png"}
    fault("TARGET_IS_QUERY", "warning", folder.add("<|image_1|>\nMirror?", "<|image_1|>", image=new("c.png"), **mirror))
    fault("SAME_QUERY", "warning", folder.add("<|image_1|>\nOne or two?", "one answer", image=new("d.png")))
    folder.add("<|image_1|>\nOne or two?", "another answer", image="d.png")
    fault("SHARED_TARGET", "note", folder.add("<|image_1|>\nFirst asker?", "a shared answer", image=new("e.png")))
    folder.add("<|image_1|>\nSecond asker?", "a shared answer", image=new("f.png"))
    fault("STRAY_PLACEHOLDER", "note", folder.add("<|image_1|>\nNo picture here?", "there is none"))
    fault("TEXT_CUT", "warning", folder.add(sentence(9, 300), "a long story"))
    folder.add("<|image_1|>\nAn extra?", "one more", image=new("g.png"), score=3)
    fault("UNUSED_COLUMN", "note", str(folder.table))

    fault("LEAK_QUERY", "error", folder.add("<|image_1|>\nAsked before?", "yes, it was", image=new("h.png")))
    folder.ask("<|image_1|>\nAsked before?", "no", "maybe", image="h.png")
    fault("LEAK_PICTURE", "warning", folder.add("<|image_1|>\nSeen in training?", "surely", image=new("i.png")))
    folder.ask("<|image_1|>\nSeen in the test?", "up", "down", image="i.png")
    fault("NEAR_PICTURE", "warning", folder.add("<|image_1|>\nSaved as it was?", "certainly", image=new("j.png")))
    folder.images["k.jpg"] = encoded(photo(210).resize((80, 80)), "JPEG", quality=60)
    folder.ask("<|image_1|>\nSaved anew?", "left", "right", image="k.jpg")
    fault("LEAK_TEXT", "warning", folder.add(sentence(20), "a first tale"))
    folder.ask("Find this: " + sentence(20), "tale one", "tale two")
    fault("NEAR_TEXT", "warning", folder.add(sentence(21, 20), "a second tale"))
    changed = sentence(21, 20).split()
    folder.ask("Find this: " + " ".join([*changed[:9], "bicycle", *changed[10:]]), "tale three", "tale four")
    for number in range(6):  # So many queries begin alike that "Find this" is known for a prompt.
        folder.ask(f"Find this: {sentence(40 + number)}", f"tale {number} a", f"tale {number} b")
    return places


def test_every_fault_is_found_once_at_its_place_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    places = seed_faults(folder)
    folder.write()
    recipe = recipe_of(f"[{{kind: mmeb_train, path: {folder.path / 'set'}}}]", max_tokens=200)
    found = check(folder, recipe)
    assert {each.code: (each.level, each.examples[0].where) for each in found.findings} == places
    assert all(len(each.examples) == 1 and each.count == 1 for each in found.findings)
    assert [each.level for each in found.findings] == sorted(
        (each.level for each in found.findings), key=["error", "warning", "note"].index
    )
    assert found.num_errors == 5
    assert all(each.stages == ("only",) for each in found.findings)


def test_negatives_are_numbered_from_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("<|image_1|>\nWho?", "an otter", image="train_1.png", negatives=["an otter", "a fish", "an otter"])
    assert only(check(folder), "POSITIVE_IS_NEGATIVE").examples[0].message == "negative 1, 3 of 3 is the target"


def test_examples_show_what_they_speak_of(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("<|image_1|>\nAsked before?", "yes", image="train_3.png")
    folder.ask("<|image_1|>\nAsked before?", "yes", "no", image="train_3.png")
    finding = only(check(folder), "LEAK_QUERY")
    assert "1 of them with the same right answer" in finding.detail
    assert "puzzle 1" in finding.detail
    ours, theirs = finding.examples[0].shown
    assert (ours.part, theirs.part) == ("training query", "puzzle: query")
    assert ours.text == theirs.text == "<|image_1|>\nAsked before?"
    assert theirs.where.endswith("puzzle.jsonl:11")


@pytest.mark.parametrize(("answer", "level"), [("a tower", "error"), ("a bridge", "warning")])
def test_a_caption_that_both_sides_ask_is_an_error_only_with_the_same_answer(
    tmp_path: Path, answer: str, level: str
) -> None:
    folder = Folder(tmp_path)
    folder.add("Find this: two red blocks", "a tower")
    folder.ask("Find this: two red blocks", answer, "a wall")
    assert only(check(folder), "LEAK_QUERY").level == level


@pytest.mark.parametrize(("allowed", "level"), [(0.5, "warning"), (0.05, "error")])
def test_bad_rows_are_errors_only_if_training_would_end(tmp_path: Path, allowed: float, level: str) -> None:
    folder = Folder(tmp_path)
    folder.add("<|image_1|>\nIs it there?", "it is not", image="none.png")
    recipe = folder.write().model_copy(update={"max_bad_rate": allowed})
    assert only(check(folder, recipe), "E_IMAGE_MISSING").level == level


@pytest.mark.parametrize(("allowed", "level"), [(0.0765, "error"), (0.077, "warning")])
def test_a_picture_that_does_not_open_is_one_of_the_rows_as_training_counts_them(
    tmp_path: Path, allowed: float, level: str
) -> None:
    folder = Folder(tmp_path)
    folder.images["torn.png"] = b"\x89PNG\r\n\x1a\n"
    folder.add("<|image_1|>\nTorn?", "it is", image="torn.png")
    recipe = folder.write().model_copy(update={"max_bad_rate": allowed})
    finding = only(check(folder, recipe), "E_IMAGE_OPEN")
    assert finding.level == level
    assert f"{1 / 13:.2%} of the rows" in finding.detail


def test_what_a_sample_finds_stands_for_all_rows_and_what_was_refused_does_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.images["torn.png"] = b"\x89PNG\r\n\x1a\n"
    for number in range(4):
        folder.add(f"<|image_1|>\nTorn {number}?", "it is", image="torn.png")
    folder.add("<|image_1|>\nIs it there?", "it is not", image="none.png")
    recipe = folder.write().model_copy(update={"max_bad_rate": 0.2})
    # Rows 0, 4, 8 and 12 of 16 are looked at; the last is one of the four.
    found = check(folder, recipe, sample=4)
    assert {each.code: each.count for each in found.findings} == {"E_IMAGE_OPEN": 1, "E_IMAGE_MISSING": 1}
    assert all(each.level == "error" and f"about {5 / 17:.2%} of the rows" in each.detail for each in found.findings)
    whole = check(folder, recipe).findings
    assert all(each.detail.startswith(f"Training ends: {5 / 17:.2%} of") for each in whole)


def test_pictures_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.images["wide.png"] = encoded(photo(60, (280, 280)))
    place = folder.add("<|image_1|>\nToo wide?", "it is", image="wide.png")
    folder.write()
    recipe = recipe_of(f"[{{kind: mmeb_train, path: {folder.path / 'set'}}}]", max_tokens=26)
    options = recipe.backbone.model_copy(update={"max_pixels": 280 * 280})
    found = check(folder, recipe.model_copy(update={"backbone": options}))
    assert [each.where for each in only(found, "E_DATA_TOO_LONG").examples] == [place]


def test_wrong_candidates_that_training_has_seen_are_a_note(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.ask("Which of the pictures?", pictures=("test_1.png", "train_2.png"))
    finding = only(check(folder), "LEAK_PICTURE")
    assert (finding.level, finding.count) == ("note", 1)
    assert "other candidate 1" in finding.detail


def test_a_source_that_cannot_be_read_is_an_error_and_the_others_are_still_checked(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.rows.append(folder.rows[0])
    folder.write()
    data = f"[{{kind: mmeb_train, path: {tmp_path / 'no.jsonl'}}}, {{kind: mmeb_train, path: {tmp_path / 'set'}}}]"
    found = check(folder, recipe_of(data))
    assert [(each.code, each.count) for each in found.findings] == [("E_DATA_FILE", 1), ("DUPLICATE_PAIR", 1)]
    assert found.stages[0].batches == ()


def test_tasks_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.ask("<|image_1|>\nGone?", "yes", "no", image="gone.png")
    folder.images["torn.png"] = b"\x89PNG\r\n\x1a\n"
    found = check(folder)
    assert codes(found) == {"E_IMAGE_MISSING": 1}
    assert only(found, "E_IMAGE_MISSING").stages == ("evaluation",)
    folder.test_rows.pop()
    folder.ask("<|image_1|>\nTorn?", "yes", "no", image="torn.png")
    assert codes(check(folder)) == {"E_IMAGE_OPEN": 1}


def test_what_two_stages_share_is_said_once_with_both(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.rows.append(folder.rows[0])
    recipe = folder.write()
    stages = [recipe.stages[0], recipe.stages[0].model_copy(update={"name": "again"})]
    found = check(folder, recipe.model_copy(update={"stages": tuple(stages)}))
    assert [(each.code, each.stages) for each in found.findings] == [("DUPLICATE_PAIR", ("only", "again"))]
    assert found.num_pictures == 22


def test_what_only_matters_to_contrast_is_not_said_of_reconstruction(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("<|image_1|>\nWho?", "an otter", image="train_1.png", negatives=["an otter"])
    folder.add("<|image_1|>\nWho else?", "an otter", image="train_2.png")
    folder.write()
    recipe = recipe_of(
        f"[{{kind: mmeb_train, path: {tmp_path / 'set'}}}]",
        objective="{kind: masked_text, rate: 0.5, roles: [target]}",
        layout="eos_bridge",
    )
    assert check(folder, recipe).findings == ()


def test_a_caption_column_beside_a_text_column_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo(1)))
    row = {"image_path": "a.png", "text": "a picture", "caption": "a caption", "kind": "real"}
    (tmp_path / "t.json").write_text(json.dumps([row]))
    recipe = recipe_of(
        f"[{{kind: image_text_pairs, path: {tmp_path / 't.json'}}}]", objective="{kind: masked_text, rate: 0.2}"
    )
    messages = [each.message for each in only(check_data(recipe), "UNUSED_COLUMN").examples]
    assert messages == ["column 'caption'", "column 'kind'"]


@pytest.mark.parametrize(
    ("rows", "unread"),
    [
        ([{"text": "a picture"}, {"caption": "a caption"}], []),
        ([{"text": "a picture", "caption": "a caption"}, {"caption": "a caption"}], []),
        ([{"text": "a picture", "caption": "a caption"}, {"text": "a picture"}], ["column 'caption'"]),
    ],
)
def test_a_caption_of_any_row_that_has_no_text_is_read(
    tmp_path: Path, rows: list[dict[str, str]], unread: list[str]
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo(1)))
    lines = [json.dumps({"image_path": "a.png", **row}) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    recipe = recipe_of(
        f"[{{kind: image_text_pairs, path: {tmp_path / 't.jsonl'}}}]", objective="{kind: masked_text, rate: 0.2}"
    )
    found = [each for each in check_data(recipe).findings if each.code == "UNUSED_COLUMN"]
    assert [example.message for each in found for example in each.examples] == unread


@pytest.mark.parametrize("side", ["same_text", "other_text"])
def test_a_target_that_the_recipe_wants_to_be_the_query_is_no_fault(tmp_path: Path, side: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo(1)))
    (tmp_path / "t.jsonl").write_text(json.dumps({"image_path": "a.png", "text": "one part alone"}))
    data = f"[{{kind: image_text_pairs, path: {tmp_path / 't.jsonl'}, side: {side}}}]"
    assert "TARGET_IS_QUERY" not in codes(check_data(recipe_of(data, objective="{kind: masked_text, rate: 0.2}")))


def test_a_sample_is_spread_over_the_rows_and_said(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    seen: list[tuple[str, int, int]] = []
    found = check(folder, sample=4, on_progress=lambda *said: seen.append(said))
    assert (found.sample, found.stages[0].num_read, found.stages[0].num_pairs) == (4, 4, 12)
    assert found.num_pictures == 4 + 10
    assert (f"reading {tmp_path / 'set'}", 4, 4) in seen
    assert sum(found.stages[0].lengths.row.counts) == 4 * 3  # query, target, one negative


def test_a_light_decoder_beside_a_contrastive_objective_adds_no_row(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    [source] = folder.write().model_dump(mode="json")["stages"][0]["data"]
    data = f"[{{kind: mmeb_train, path: {source['path']}}}]"
    alone, both = (
        check(folder, recipe_of(data, objective=objective)).stages[0].lengths.row
        for objective in ("{kind: contrastive}", "{kind: contrastive}, {kind: bridged_text, rate: 0.5}")
    )
    assert alone == both


def test_the_preview_is_the_order_of_the_mixture(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    recipe = folder.write()
    [stage] = check(folder, recipe).stages
    mixture = open_data(recipe, recipe.stages[0])
    for step, batch in enumerate(stage.batches):
        assert (batch.step, batch.num_pairs) == (step, 5)
        expected = mixture.batch(step, 5)
        assert [pair.where for pair in batch.pairs] == [pair.query.where for pair in expected]
        assert [pair.position for pair in batch.pairs] == list(range(step * 5, step * 5 + 5))
        for shown, pair in zip(batch.pairs, expected, strict=True):
            assert shown.query is not None and shown.target is not None
            assert shown.query.text == pair.query.text.replace("<|image_1|>", "[picture 1]")
            assert shown.target.text == pair.target.text
            # 84 x 84 pixels are a whole number of patches, so the picture is what the file holds.
            original = np.asarray(photo(int(str(pair.query.images[0]).split("_")[-1].split(".")[0])), int)
            assert np.abs(np.asarray(shown.query.pictures[0], int) - original).max() <= 1
    assert len(stage.batches) == 2


def test_a_preview_shows_texts_as_they_are_cut_and_rows_that_will_be_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.rows = []
    folder.add(sentence(9, 300), "a long story")
    folder.images["torn.png"] = b"\x89PNG\r\n\x1a\n"
    folder.add("<|image_1|>\nTorn?", "yes", image="torn.png")
    folder.write()
    recipe = recipe_of(f"[{{kind: mmeb_train, path: {tmp_path / 'set'}}}]", max_tokens=50)
    pairs = {pair.where: pair for pair in check(folder, recipe).stages[0].batches[0].pairs}
    long, torn = pairs[f"{folder.table}:1"], pairs[f"{folder.table}:2"]
    assert long.query is not None and long.query.cut and long.query.num_tokens == 49
    assert sentence(9, 300).startswith(long.query.text)
    assert torn.query is None and "E_IMAGE" in torn.problem


def test_shares_are_those_of_the_mixture(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write()
    data = (
        f"[{{kind: mmeb_train, path: {tmp_path / 'set'}, weight: 0.5}}, "
        "{kind: scene_pairs, num_pairs: 7, weight: 2.0}, {kind: scene_pairs, num_pairs: 5, seed: 1}]"
    )
    recipe = recipe_of(data)
    [stage] = check(folder, recipe).stages
    mixture = open_data(recipe, recipe.stages[0])
    pairs = [mixture.pair(position).query for position in range(mixture.epoch_size)]
    drawn = Counter("table" if str(folder.table) in pair.where else "scene" for pair in pairs)
    shares = [table.share for table in stage.tables]
    assert shares[0] == pytest.approx(drawn["table"] / len(pairs))
    assert sum(shares[1:]) == pytest.approx(drawn["scene"] / len(pairs))
    assert [table.name for table in stage.tables][1:] == ["generated scenes, seed 0", "generated scenes, seed 1"]


def test_generated_scenes_are_looked_at_like_files(tmp_path: Path) -> None:
    found = check_data(recipe_of("[{kind: scene_pairs, num_pairs: 20}]"), workers=2)
    assert found.tasks is None
    assert found.num_pictures == 20
    assert found.num_errors == 0


def test_a_histogram_has_few_even_bars_and_holds_every_value():
    histogram = Histogram.of([0, 3, 3, 99, 431])
    assert np.unique(np.diff(histogram.edges)).tolist() == [20]
    assert sum(histogram.counts) == 5
    assert histogram.edges[-2] <= 431 < histogram.edges[-1]
    assert (histogram.longest, histogram.mean) == (431, pytest.approx(107.2))
    assert Histogram.of([]).counts == (0,)


def test_the_list_is_plain_json_and_the_same_every_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    seed_faults(folder)
    recipe = folder.write()
    one, other = (replace(check(folder, recipe), seconds=0.0).to_dict() for _ in range(2))
    assert json.dumps(one) == json.dumps(other)
    first = one["findings"][0]
    assert {"level", "code", "count", "title", "advice", "stages", "tables", "examples"} <= set(first)
    assert first["examples"][0]["where"].startswith(str(folder.table))


def test_picture_targets_are_noted_where_words_of_targets_are_rebuilt(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.images["answer.png"] = encoded(photo(60))
    place = folder.add("Which one is meant?", "<|image_1|>\nRepresent it.", pos_image_path="answer.png", negatives=[])
    assert "PICTURE_TARGET" not in codes(check(folder))
    data = f"[{{kind: mmeb_train, path: {tmp_path / 'set'}}}]"
    bridge = recipe_of(data, layout="eos_bridge", objective="{kind: masked_text, rate: 0.7, roles: [target]}")
    finding = only(check(folder, bridge), "PICTURE_TARGET")
    assert (finding.level, finding.count, finding.stages, finding.tables) == (
        "note",
        1,
        ("only",),
        {str(folder.table): 1},
    )
    assert finding.examples[0].where.startswith(place)


def test_a_picture_that_a_stage_never_decodes_is_no_fault_of_it(tmp_path: Path) -> None:
    """Training leaves the row out where words of targets are rebuilt: it ends at the row elsewhere only."""
    folder = Folder(tmp_path)
    folder.images |= {"broken.png": b"no picture", "large.png": encoded(photo(60, (300, 300)))}
    place = folder.add("Which one is it?", "<|image_1|>\nRepresent it.", pos_image_path="broken.png", negatives=[])
    folder.add("Which is large?", "<|image_1|>\nRepresent it.", pos_image_path="large.png", negatives=[])
    plain = folder.write()
    data = f"[{{kind: mmeb_train, path: {tmp_path / 'set'}}}]"
    bridge = recipe_of(data, layout="eos_bridge", objective="{kind: masked_text, rate: 0.7, roles: [target]}")
    found = check(folder, bridge, sample=None)
    assert codes(found) == {"PICTURE_TARGET": 2}
    assert found.num_errors == 0
    assert (found.stages[0].num_read, found.stages[0].num_pairs) == (14, 14)
    mixture = open_data(bridge, bridge.stages[0])
    pairs = [mixture.pair(number) for number in range(len(mixture))]
    assert place not in [encode_pair(backbone_of(bridge), pair).query.where for pair in pairs], "it is never decoded"
    assert only(check(folder, plain), "E_IMAGE_OPEN").level == "error"
    both = bridge.model_copy(update={"stages": (bridge.stages[0], plain.stages[0].model_copy(update={"name": "last"}))})
    assert only(check(folder, both), "E_IMAGE_OPEN").stages == ("last",)


@pytest.mark.parametrize("option", ["--tasks", "--eval"])
def test_the_command_compares_with_tasks_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "mine.yaml").write_text(folder.write().to_yaml())
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: asked.append(name) or folder.tasks)
    words = ["check-data", str(tmp_path / "mine.yaml"), option, "mmeb-v1", "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert asked == ["TIGER-Lab/MMEB-eval"]
    assert json.loads((tmp_path / "out" / "check.json").read_text())["tasks"] == ["puzzle"]


def test_the_old_name_of_an_option_is_not_shown_and_not_taken_beside_the_new() -> None:
    assert "--eval" not in CliRunner().invoke(app, ["check-data", "--help"]).output
    words = ["check-data", "mine.yaml", "--tasks", "one", "--eval", "other"]
    assert getattr(CliRunner().invoke(app, words).exception, "code", None) == "E_USAGE_IDLE"
