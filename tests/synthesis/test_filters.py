"""What is dropped, and what looks like it and is kept."""

from __future__ import annotations

import pytest

from cocoa.synthesis.filters import REASONS, fault

LOOP = "The sign reads stop and " * 12
NEAR_LOOP = " ".join(f"There is a small red apple on the table, number {n}." for n in range(20))
CAPTION = (
    "A red double-decker bus stands at the kerb of a wet street. Its destination board reads “King's Cross 10”. "
    "To the left of the bus a woman in a yellow raincoat holds a black umbrella, and behind her a brick building with "
    "white window frames fills the background. The brand of the umbrella cannot be determined. The sky is grey."
)

DROPPED = [
    ("empty", "…!", ""),
    ("refusal", "I'm sorry, but I can't help with identifying people in this picture.", "Who is this?"),
    ("refusal", "I’m unable to view images.", ""),
    ("refusal", "As an AI language model, I cannot see pictures.", ""),
    ("refusal", "Unfortunately, I cannot make out any of it.", ""),
    ("refusal", "It cannot be determined from the picture.", "What year is it?"),
    ("refusal", "There is not enough information in the picture to say.", "What year is it?"),
    ("refusal", "No image was provided.", ""),
    ("control_token", "A cat on a mat.<|im_end|>", ""),
    ("control_token", "<|image_1|> A cat on a mat.", ""),
    ("repetition", LOOP, ""),
    ("repetition", "no " * 9, ""),
    ("repetition", NEAR_LOOP, ""),
    ("repetition", "一只猫，" * 9, ""),
    ("echo", "What colour is the cat on the mat?", "What colour is the cat on the mat?"),
    ("echo", "The colour of the cat on the mat.", "What colour is the cat on the mat?"),
    ("echo", "the sign on the door", "What does the sign on the door say?"),
    ("too_long", " ".join(f"word{n}" for n in range(500)), ""),
]

KEPT = [
    ("A cat.", ""),
    (CAPTION, ""),
    ("Black.", "Is the cat black or white?"),
    ("The cat is black.", "Is the cat black or white?"),
    ("The cat is black.", "Is the cat black?"),
    ("Stop", "What is written on the stop sign?"),
    ("The cat on the mat is grey.", "What colour is the cat on the mat?"),
    ("The left one or the right one", "Which is larger, the left one or the right one?"),
    ("A boy stands on the sorry remains of a fence and does not look at us.", ""),
    ("The board reads “STOP STOP STOP” in red.", ""),
    ("两只猫坐在红色的垫子上。", "图中有什么？"),
    ("2", "How many cats are there?"),
    ("A bird, a bird and a bird.", "What is there?"),
]


@pytest.mark.parametrize(("reason", "text", "question"), DROPPED)
def test_what_is_worth_nothing_is_dropped_for_its_reason(reason, text, question):
    assert fault(text, (1, 400), question=question) == reason
    assert reason in REASONS


@pytest.mark.parametrize(("text", "question"), KEPT)
def test_what_is_good_is_kept(text, question):
    assert fault(text, (1, 400), question=question) == ""


def test_length_and_end_are_looked_at():
    assert fault("A cat.", (3, 9)) == "too_short"
    assert fault("A cat.", (1, 1)) == "too_long"
    assert fault("A cat sits on", (1, 9), finish="length") == "cut"
    assert fault("", (1, 9), finish="refused") == "refusal"
    assert fault("A cat.", (2, 2)) == ""
