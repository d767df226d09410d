"""Prompt files: those that ship are whole, and a wrong one is refused with what is wrong in it."""

from __future__ import annotations

import pytest

from cocoa.errors import CocoaError
from cocoa.sample import IMAGE_PLACEHOLDER
from cocoa.synthesis import load_prompts


def test_the_shipped_prompts_ask_for_what_the_method_wants():
    questions = load_prompts("questions")
    assert questions.kind == "questions"
    for wanted in ("three to five", "visible", "opinion", "attributes", "scene", "writing", "stand to one another"):
        assert wanted in questions.ask
    assert "one question on each line" in questions.ask
    assert questions.query == f"{IMAGE_PLACEHOLDER}\n{{question}}\n"
    assert "in detail" in load_prompts("captions").ask
    assert load_prompts("plain-captions").ask == ""


def test_a_file_of_ones_own_is_known_by_its_content(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: questions\nquestions:\n- what is there?\n")
    prompts = load_prompts(str(path))
    assert (prompts.name, prompts.questions) == ("mine", ("what is there?",))
    path.write_text("kind: questions\nquestions:\n- what is here?\n")
    assert load_prompts(str(path)).sha256 != prompts.sha256


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "needs `kind`"),
        ("[]", "needs `kind`"),
        ("kind: poems", "needs `kind`"),
        ("kind: [", "not YAML"),
        ("kind: questions\nquestions: [why?]", "not YAML: .* line 2"),
        ("kind: captions\nasc: x", "unknown key 'asc'"),
        ("kind: captions\nname: x", "unknown key 'name'"),
        ("kind: captions\nask: 3", "'ask' must be a text"),
        ("kind: captions\ntext_words: [9, 1]", "fewest, most"),
        ("kind: captions\ntext_words: [true, 1]", "fewest, most"),
        ("kind: captions\nquestions: [y]", "without effect for captions: 'questions'"),
        ("kind: captions\nquery: '{question}'\nmost_questions: 3", "for captions: 'query', 'most_questions'"),
        ("kind: questions\nquestions: [y]\nquestion_words: [3, 9]", "asked whole: 'question_words'"),
        ("kind: questions", "either `ask`"),
        ("kind: questions\nask: x\nquestions: [y]", "either `ask`"),
        ("kind: questions\nquestions: [3]", "list of texts"),
        ("kind: questions\nask: x\nanswer: y", "must hold {question}"),
        ("kind: questions\nask: x\nmost_questions: 0", "from 1"),
        ("kind: !!python/object/apply:os.getpid []", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path, content, what):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(CocoaError, match=what.replace("[", r"\[").replace("{", r"\{")):
        load_prompts(str(path))


def test_a_name_that_is_none_lists_those_there_are():
    with pytest.raises(CocoaError, match="captions, plain-captions, questions"):
        load_prompts("poems")
    with pytest.raises(CocoaError, match="cannot be read"):
        load_prompts("nowhere/mine.yaml")
