"""The table of MMEB-V1 says what the benchmark says: every expected text here is written out by hand."""

from __future__ import annotations

import pytest

from cocoa.data.mmeb_v1 import (
    DEFAULT_RULES,
    RULES,
    TASKS,
    build_text,
    canonical_name,
    join_instruction,
    missing_tasks,
    prompt_differences,
    repairs_for,
)
from cocoa.errors import UsageError
from cocoa.sample import Question, Sample, Task

ASK = "<|image_1|>\nRepresent the given image with the following question: What is it?\n"
WHOLE = "<|image_1|>\nRepresent the given image.\n"
CROP = "<|image_1|>\nRepresent the given cropped image of the object"
CLASSIFY = "<|image_1|>\nRepresent the given image for classification\n"
OBJECT = "<|image_1|>\nIdentify the object shown in the image\n"
SCENE = "<|image_1|>\nIdentify the scene shown in the image\n"

# name, meta-task, split, candidates, text of the query, the query, text of the target, the target
EXPECTED = [
    ("ImageNet-1K", "classification", "ind", 1000, "", CLASSIFY, "coucal", "coucal"),
    (
        "N24News", "classification", "ind", 24, "A street.",
        "<|image_1|>\nRepresent the given news image with the following caption for domain classification: A street.\n",
        "Travel", "Travel",
    ),
    (
        "HatefulMemes", "classification", "ind", 2, "",
        "<|image_1|>\nRepresent the given image for binary classification to determine whether it constitutes hateful "
        "speech or not\n",
        "Yes", "Yes",
    ),
    ("VOC2007", "classification", "ind", 20, "", OBJECT, "chair", "chair"),
    ("SUN397", "classification", "ind", 397, "", SCENE, "raft", "raft"),
    ("Place365", "classification", "ood", 365, "", SCENE, "berth", "berth"),
    ("ImageNet-A", "classification", "ood", 1000, "", CLASSIFY, "Rottweiler", "Rottweiler"),
    ("ImageNet-R", "classification", "ood", 200, "", CLASSIFY, "bell_pepper", "bell_pepper"),
    ("ObjectNet", "classification", "ood", 113, "", OBJECT, "tray", "tray"),
    (
        "Country211", "classification", "ood", 211, "",
        "<|image_1|>\nIdentify the country depicted in the image\n", "Fiji", "Fiji",
    ),
    ("OK-VQA", "vqa", "ind", 1000, "What is it?", ASK, "race", "race"),
    ("A-OKVQA", "vqa", "ind", 894, "What is it?", ASK, "cab", "cab"),
    ("DocVQA", "vqa", "ind", 1000, "What is it?", ASK, "0.28", "0.28"),
    ("InfographicsVQA", "vqa", "ind", 1000, "What is it?", ASK, "print", "print"),
    ("ChartQA", "vqa", "ind", 1000, "What is it?", ASK, "14", "14"),
    ("Visual7W", "vqa", "ind", 1000, "What is it?", ASK, "Gray.", "Gray."),
    ("ScienceQA", "vqa", "ood", 736, "What is it?", ASK, "mushroom", "mushroom"),
    ("VizWiz", "vqa", "ood", 1000, "What is it?", ASK, "night time", "night time"),
    ("GQA", "vqa", "ood", 1000, "What is it?", ASK, "This is a parrot.", "This is a parrot."),
    ("TextVQA", "vqa", "ood", 1000, "What is it?", ASK, "dakota", "dakota"),
    (
        "VisDial", "retrieval", "ind", 1000, "Q:is it daytime\nA:yes",
        "Represent the given dialogue about an image, which is used for image retrieval: Q:is it daytime\nA:yes\n\n",
        "", "<|image_1|>\nRepresent the given image\n",
    ),
    (
        "CIRR", "retrieval", "ind", 1000, "Show three bottles.",
        "<|image_1|>\nGiven an image, find a similar everyday image with the described changes: Show three bottles.\n",
        "", "<|image_1|>\nRepresent the given image.",
    ),
    (
        "VisualNews_t2i", "retrieval", "ind", 1000, "Jersey Shore cast.",
        "Retrieve an image of this news caption. Jersey Shore cast.\n", "", WHOLE,
    ),
    (
        "VisualNews_i2t", "retrieval", "ind", 1000, "",
        "<|image_1|>\nFind a caption for the news in the given photo.\n", "Jersey Shore cast.", "Jersey Shore cast.",
    ),
    (
        "MSCOCO_t2i", "retrieval", "ind", 1000, "A man on a moped.",
        "Find me an everyday image that matches the given caption: A man on a moped.\n", "", WHOLE,
    ),
    (
        "MSCOCO_i2t", "retrieval", "ind", 1000, "",
        "<|image_1|>\nFind an image caption describing the given everyday image.\n",
        "A man on a moped.", "A man on a moped.",
    ),
    (
        "NIGHTS", "retrieval", "ind", 1000, "",
        "<|image_1|>\nFind a day-to-day image that looks similar to the provided image.\n",
        "", "<|image_1|>\nRepresent the given image.",
    ),
    (
        "WebQA", "retrieval", "ind", 1000, "Which body part?",
        "Find a Wikipedia image that answers this question: Which body part?\n", "A Barber half.",
        "<|image_1|>\nRepresent the given Wikipedia image with related text information: A Barber half.\n",
    ),
    (
        "FashionIQ", "retrieval", "ood", 1000, "Is shiny.",
        "<|image_1|>\nFind an image to match the fashion image and style note: Is shiny.\n",
        "", "<|image_1|>\nRepresent the given image.",
    ),
    (
        "Wiki-SS-NQ", "retrieval", "ood", 1000, "who is it",
        "Find the document image that can answer the given query: who is it\n",
        "", "<|image_1|>\nRepresent the given image\n",
    ),
    (
        "OVEN", "retrieval", "ood", 1000, "What lake?",
        "<|image_1|>\nRetrieve a Wikipedia image-description pair that provides evidence for the question of this "
        "image: What lake?\n", "Titisee.",
        "<|image_1|>\nRepresent the given Wikipedia image with related text information: Titisee.\n",
    ),
    (
        "EDIS", "retrieval", "ood", 1000, "Peres arrives.",
        "Find a news image that matches the provided caption: Peres arrives.\n", "Arabs recall.",
        "<|image_1|>\nRepresent the given image with related text information: Arabs recall.\n",
    ),
    (
        "MSCOCO", "grounding", "ind", 1000, "dog",
        '<|image_1|>\nCrop the image to to isolate the object labeled as "dog"\n', "", CROP,
    ),
    (
        "RefCOCO", "grounding", "ood", 1000, "left bowl",
        '<|image_1|>\nSelect the portion of the image that follows the language expressions. "left bowl"\n', "", CROP,
    ),
    (
        "RefCOCO-Matching", "grounding", "ood", 1000, "left bowl",
        '<|image_1|>\nSelect the portion of the image that follows the language expressions: "left bowl"\n', "a dish",
        '<|image_1|>\nSelect the portion of the image that follows the language expressions: "a dish"\n',
    ),
    (
        "Visual7W-Pointing", "grounding", "ood", 1000, "Which box frames the toilet?",
        '<|image_1|>\nSelect the portion of the image that answers the question "Which box frames the toilet?"\n',
        "", CROP,
    ),
]  # fmt: skip
IDS = [row[0] for row in EXPECTED]


@pytest.mark.parametrize("row", EXPECTED, ids=IDS)
def test_a_task_has_the_prompts_of_the_benchmark(row: tuple[str, str, str, int, str, str, str, str]) -> None:
    name, meta_task, split, candidates, query, query_text, target, target_text = row
    task = TASKS[name]
    assert (task.meta_task, task.split, task.candidates, task.queries) == (meta_task, split, candidates, 1000)
    assert task.query_text(query) == query_text
    assert task.target_text(target) == target_text


def test_the_tasks_are_the_36_in_order_with_20_that_have_training_data() -> None:
    assert list(TASKS) == IDS
    assert len(TASKS) == 36
    assert [sum(task.split == split for task in TASKS.values()) for split in ("ind", "ood")] == [20, 16]
    counts = [task.meta_task for task in TASKS.values()]
    assert [counts.count(kind) for kind in ("classification", "vqa", "retrieval", "grounding")] == [10, 10, 12, 4]


def test_every_quirk_is_a_rule_and_every_doubt_a_note() -> None:
    assert {quirk for task in TASKS.values() for quirk in task.quirks} == set(RULES)
    assert [name for name in TASKS if TASKS[name].quirks] == ["ImageNet-R", "WebQA", "EDIS", "MSCOCO"]
    assert {"stray_placeholder"} == DEFAULT_RULES
    for name in ("N24News", "HatefulMemes", "Place365", "CIRR", "NIGHTS", "FashionIQ"):
        assert TASKS[name].note
    assert all(rule.why for rule in RULES.values())
    assert (TASKS["ImageNet-1K"].train_name, TASKS["MSCOCO"].train_query) == (
        "ImageNet_1K",
        'Select the portion of the image that isolates the object labeled as "{text}"',
    )


STRAY = "<|image_1|>\nFind a Wikipedia image that answers this question: Why?\n"
TO_TO = '<|image_1|>\nCrop the image to to isolate the object labeled as "ring road to to"\n'


@pytest.mark.parametrize(
    ("name", "rules", "side", "image", "text", "expected"),
    [
        ("WebQA", None, "query", False, STRAY, "Find a Wikipedia image that answers this question: Why?\n"),
        ("EDIS", ["stray_placeholder"], "query", False, STRAY, STRAY.removeprefix("<|image_1|>\n")),
        ("WebQA", [], "query", False, STRAY, STRAY),
        ("WebQA", None, "query", True, STRAY, STRAY),
        ("my-own", None, "target", False, "<|image_1|>x", "x"),
        ("MSCOCO", None, "query", True, TO_TO, TO_TO),
        ("RefCOCO", ["to_to"], "query", True, TO_TO, TO_TO),
        ("MSCOCO", ["to_to"], "target", True, TO_TO, TO_TO),
        ("ImageNet-R", None, "target", False, "bell_pepper", "bell_pepper"),
        ("ImageNet-R", ["snake_case_labels"], "target", False, "African_chameleon", "African chameleon"),
        ("ImageNet-A", ["snake_case_labels"], "target", False, "bell_pepper", "bell_pepper"),
    ],
)
def test_a_rule_repairs_its_tasks_and_can_be_left_out(name, rules, side, image, text, expected) -> None:
    assert repairs_for(name, rules)(text, side, image=image) == expected


def test_the_typing_error_goes_from_the_prompt_and_not_from_the_label() -> None:
    repaired = repairs_for("MSCOCO", ["to_to"])(TO_TO, "query", image=True)
    assert repaired == '<|image_1|>\nCrop the image to isolate the object labeled as "ring road to to"\n'


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'snake_case_labels'.*E_USAGE_RULE"):
        repairs_for("GQA", ["snake_case_label"])


def test_names_in_any_spelling() -> None:
    for spelling in ("ImageNet_1K", "imagenet-1k", "IMAGENET 1K", "ImageNet-1K"):
        assert canonical_name(spelling) == "ImageNet-1K"
    assert canonical_name("mscoco-t2i") == "MSCOCO_t2i"
    assert canonical_name("emoji_cls") == "emoji_cls"
    assert len({canonical_name(name.upper().replace("-", "_")) for name in TASKS}) == 36


def test_what_is_missing_of_the_benchmark() -> None:
    assert missing_tasks(["mine", "other"]) == []
    assert missing_tasks(TASKS) == []
    assert missing_tasks(["GQA", *list(TASKS)[:-2]]) == ["RefCOCO-Matching", "Visual7W-Pointing"]


def test_a_prompt_ends_once_and_a_label_is_never_touched() -> None:
    assert build_text("Do: {text}", "x\n\n", image=False, end="\n") == "Do: x\n"
    assert build_text("Do {text}", "\nx", image=True, end="\n") == "<|image_1|>\nDo\nx\n"
    assert build_text("{text}", "a \nb {text}\n", image=False, end="") == "a \nb {text}\n"


# How ziyjiang/MMEB_Test_Instruct has the rows: the instruction of either side, then its text.
APART = [
    ("ImageNet-1K", "<|image_1|>\nRepresent the given image for classification", "", "", "coucal"),
    ("VizWiz", "<|image_1|> Represent the given image with the following question:", "What is it?", "", "night time"),
    ("MSCOCO_i2t", "<|image_1|>\nFind an image caption describing the given everyday image.", "", "", "A moped."),
    (
        "WebQA", "<|image_1|>\nFind a Wikipedia image that answers this question:", "Why?",
        "<|image_1|>\nRepresent the given Wikipedia image with related text information:", "A coin.",
    ),
    (
        "VisDial", "Represent the given dialogue about an image, which is used for image retrieval:", "Q:a\nA:b",
        "<|image_1|>\nRepresent the given image", "",
    ),
    ("FashionIQ", "<|image_1|>\nFind an image to match the fashion image and style note:", "Is shiny.",
     "<|image_1|>\nRepresent the given image.", ""),
    ("OVEN", "<|image_1|>\nRetrieve a Wikipedia image-description pair that provides evidence for the question of this "
     "image:", "What lake?", "<|image_1|>\nRepresent the given Wikipedia image with related text information:", "Tit."),
    ("RefCOCO", "<|image_1|>\nSelect the portion of the image that follows the language expressions.", '"left bowl"',
     "<|image_1|>\nRepresent the given cropped image of the object", ""),
]  # fmt: skip


@pytest.mark.parametrize("row", APART, ids=[row[0] for row in APART])
def test_instructions_apart_give_the_texts_of_rows_with_both_in_one(row: tuple[str, str, str, str, str]) -> None:
    name, query_instruction, query, target_instruction, target = row
    task = TASKS[name]
    repair = repairs_for(name)
    joined = join_instruction(query_instruction, query, image=task.layout.query_image, side="query", task=task)
    assert repair(joined, "query", image=task.layout.query_image) == task.query_text(query.strip('"'))
    joined = join_instruction(target_instruction, target, image=task.layout.target_image, side="target", task=task)
    assert repair(joined, "target", image=task.layout.target_image) == task.target_text(target)


def test_a_newline_that_the_row_has_is_kept_where_the_rule_adds_none() -> None:
    task = TASKS["CIRR"]
    for end in ("", "\n"):
        row = f"<|image_1|>\nRepresent the given image.{end}"
        assert join_instruction(row, "", image=True, side="target", task=task) == row


def test_a_stray_placeholder_apart_stays_if_its_rule_is_off() -> None:
    joined = join_instruction("<|image_1|>\nFind:", "Why?", image=False, side="query", task=TASKS["WebQA"])
    assert repairs_for("WebQA", [])(joined, "query", image=False) == "<|image_1|>\nFind: Why?\n"


def test_rows_are_checked_against_the_prompts() -> None:
    def task(query: str, *targets: str) -> Task:
        question = Question(Sample(query, where="t:1"), tuple(Sample(target, where="t:1") for target in targets))
        return Task("CIRR", "retrieval", (question, question))

    right = TASKS["CIRR"].query_text("Show it.")
    assert prompt_differences(task(right, WHOLE, WHOLE.rstrip())) == []
    [difference] = prompt_differences(task(right, "<|image_1|>\nRepresent the given image\n", WHOLE))
    assert "1 texts of the target side" in difference
    assert "t:1" in difference
    assert len(prompt_differences(task("Find it", "x"))) == 2
    assert prompt_differences(Task("mine", "vqa", ())) == []
