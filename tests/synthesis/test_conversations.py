"""Questions are read off a list, asked one after another, and only what is good stays in the conversation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cocoa.errors import ImageError
from cocoa.synthesis import EndpointError, EndpointRefusedError, Reply, load_prompts
from cocoa.synthesis.conversations import Outcome, talk

PROMPTS = replace(load_prompts("questions"), ask="List!", answer="{question}", most_questions=3)
CAPTIONS = replace(load_prompts("captions"), ask="Describe!", text_words=(2, 9))


def script(answers, said):
    def ask(turns):
        said.append(turns)
        answer = answers[turns[-1]]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(answer, "stop", 1, 1, "h")

    return ask


def test_answers_are_given_in_one_conversation():
    said = []
    answers = {
        "List!": "Here are the questions:\n\n1. **How many cats are there?**\n- What is on the mat?\n3) Where is it?\n",
        "How many cats are there?": "Two cats.",
        "What is on the mat?": "A bowl.",
        "Where is it?": "In a kitchen.",
    }
    outcome = talk("a.png", PROMPTS, script(answers, said))
    assert [(row.turn, row.question, row.text) for row in outcome.rows] == [
        (1, "How many cats are there?", "Two cats."),
        (2, "What is on the mat?", "A bowl."),
        (3, "Where is it?", "In a kitchen."),
    ]
    assert said[0] == ("List!",)
    assert said[-1] == (
        "How many cats are there?",
        "Two cats.",
        "What is on the mat?",
        "A bowl.",
        "Where is it?",
    )
    assert [(item.reason, item.question) for item in outcome.dropped] == [("not_a_question", "Here are the questions:")]
    assert Outcome.of(outcome.to_json()) == outcome


def test_each_question_that_is_not_asked_has_a_reason():
    listed = "Is it day or night?\nis it day, or night?\nWhy?\nWho is there with him?\nWhat is red here?\nWhat is left?"
    said = []
    answers = {"List!": listed, **dict.fromkeys(listed.splitlines(), "Nothing much to see.")}
    outcome = talk("a.png", PROMPTS, script(answers, said))
    assert [item.reason for item in outcome.dropped] == ["duplicate", "too_short", "too_many"]
    assert len(outcome.rows) == 3


def test_a_bad_answer_does_not_stay_in_the_conversation():
    said = []
    answers = {
        "List!": "What year is it?\nWhat is on the mat?\nWhere is the mat now?",
        "What year is it?": "I'm sorry, I cannot tell.",
        "What is on the mat?": EndpointError("E_REPLY_EMPTY", "an empty reply (3 times)"),
        "Where is the mat now?": "In a kitchen.",
    }
    outcome = talk("a.png", PROMPTS, script(answers, said))
    assert said[-1] == ("Where is the mat now?",)
    assert [row.text for row in outcome.rows] == ["In a kitchen."]
    assert [item.reason for item in outcome.dropped] == ["refusal"]
    assert [(row.where, row.code) for row in outcome.bad] == [("a.png, question 2", "E_REPLY_EMPTY")]


def test_a_list_cut_short_loses_its_last_line_alone():
    said = []
    answers = {
        "List!": Reply("What is on the mat?\nWhere is the ma?", "length", 1, 1, "h"),
        "What is on the mat?": "A bowl.",
    }
    outcome = talk("a.png", PROMPTS, script(answers, said))
    assert [item.reason for item in outcome.dropped] == ["cut"]
    assert len(outcome.rows) == 1


@pytest.mark.parametrize(("text", "finish", "reason"), [("", "refused", "refusal"), ("\n", "stop", "empty")])
def test_no_questions_at_all_drops_the_picture(text, finish, reason):
    outcome = talk("a.png", PROMPTS, script({"List!": Reply(text, finish, 1, 1, "h")}, []))
    assert [item.reason for item in outcome.dropped] == [reason]
    assert not outcome.rows


def test_fixed_questions_are_asked_of_every_picture():
    fixed = replace(PROMPTS, ask="", questions=("what is it?",))
    outcome = talk("a.png", fixed, script({"what is it?": "A cat."}, []))
    assert [(row.question, row.text) for row in outcome.rows] == [("what is it?", "A cat.")]


def test_a_caption_is_kept_dropped_or_bad():
    assert talk("a.png", CAPTIONS, script({"Describe!": "A cat."}, [])).rows[0].text == "A cat."
    assert talk("a.png", CAPTIONS, script({"Describe!": "Cat."}, [])).dropped[0].reason == "too_short"
    for error in (EndpointError("E_REPLY_JSON", "x"), ImageError("E_IMAGE_OPEN", "x")):
        outcome = talk("a.png", CAPTIONS, script({"Describe!": error}, []))
        assert [row.code for row in outcome.bad] == [error.code]
        assert (outcome.failure is error) == isinstance(error, EndpointError)
    with pytest.raises(EndpointRefusedError):
        talk("a.png", CAPTIONS, script({"Describe!": EndpointRefusedError("E_ENDPOINT_REFUSED", "x")}, []))
