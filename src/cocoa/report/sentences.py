"""What the numbers say, in sentences that hold whichever way they went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cocoa.report.comparison import columns, guessing, points
from cocoa.report.content import HiddenWord, QuickstartContent, VariantResult
from cocoa.report.totals import Totals

_NUMBERS = {2: "two", 3: "three", 4: "four"}


def headline(content: QuickstartContent) -> str:
    """Returns the result in a few words: gain, loss or neither."""
    if len(content.variants) < 2:
        return f"{content.variants[0].title}, trained and measured" if content.variants else "Nothing was measured"
    return listed([_gain(variant, content.variants[0]) for variant in content.variants[1:]])


def _gain(variant: VariantResult, first: VariantResult) -> str:
    difference = points(variant.summary.get("overall"), first.summary.get("overall"))
    if difference is None:
        return f"{variant.title} and {first.title.lower()} cannot be compared"
    if difference == 0:
        return f"{variant.title} makes no difference"
    return f"{variant.title} {'gains' if difference > 0 else 'loses'} {abs(difference):.1f} points"


def lead(content: QuickstartContent) -> str:
    """Returns what happened, how it ended and what to think of it."""
    num = len(content.variants)
    pairs = f"{content.num_train_pairs:,} labelled pairs"
    ways = "once" if num == 1 else f"in {_NUMBERS.get(num, num)} ways"
    sentences = [f"In {duration(content.seconds)}, one small model was trained {ways} on the same {pairs}."]
    measured = [variant for variant in content.variants if "overall" in variant.summary]
    if measured:
        # Ours first, what they are measured against last.
        rates = [f"{variant.title} {variant.summary['overall']:.1%}" for variant in reversed(measured)]
        sentences.append(f"Right answers in first place, overall: {', '.join(rates)}.")
    sentences += [by_meta_task(variant, content.variants[0]) for variant in content.variants[1:]]
    guesses = [variant for variant in measured[1:] or measured if _is_a_guess(variant)]
    sentences += [f"{variant.title} is no better than guessing." for variant in guesses]
    if num > 1:
        sentences.append("Each was trained once, so a small difference may be chance.")
    return " ".join(sentence for sentence in sentences if sentence)


def by_meta_task(variant: VariantResult, against: VariantResult) -> str:
    """Returns in which meta-tasks a variant is better, worse and equal."""
    found: dict[str, list[str]] = {"better in": [], "worse in": [], "equal in": []}
    for name in columns([variant, against]):
        difference = points(variant.summary.get(name), against.summary.get(name))
        if name != "overall" and difference is not None:
            found["equal in" if difference == 0 else "better in" if difference > 0 else "worse in"].append(name)
    said = [f"{how} {listed(names)}" for how, names in found.items() if names]
    return f"{variant.title} is {', '.join(said)}." if said else ""


def cost(content: QuickstartContent) -> str:
    """Returns what each variant's training took, stage by stage."""
    return " ".join(
        f"{variant.title}: {listed([f'{stage} {duration(seconds)}' for stage, seconds in variant.seconds.items()])}."
        for variant in content.variants
        if variant.seconds
    )


def cost_of_run(whole: Totals) -> str:
    """Returns how fast a run was, what slowed it, and what it left out."""
    return (
        f"{whole.tokens_per_second:,.0f} tokens a second over {duration(whole.seconds)}; {whole.pad_rate:.1%} of what "
        f"was computed was padding, and {whole.wait_rate:.1%} of the time was spent waiting for data. "
        f"{_were(whole.skipped, 'row')} left out, {_were(whole.cut_texts, 'text')} cut."
    )


def bridge(content: QuickstartContent) -> str:
    """Returns whether the bridge token carries the picture, judged by the two losses before and after its stage."""
    after = _gap(content.bridge_loss_true, content.bridge_loss_shuffled)
    before = _gap(content.before_true, content.before_shuffled)
    if after > 0:
        carries = f"Reading the picture's own bridge token lowers the loss of a hidden word by {after:.2f}."
    elif after == 0:
        carries = "The picture's own bridge token does not help: another picture's does as well."
    else:
        carries = f"The picture's own bridge token does not help: another picture's does better, by {-after:.2f}."
    return f"{carries} Before the bridge stage the difference was {signed(before, 2)}."


def rebuilt(words: Iterable[HiddenWord]) -> str:
    """Returns how many hidden words came back right."""
    hidden = [word for word in words if word.hidden]
    right = sum(word.predicted == word.text for word in hidden)
    return f"{right} of {len(hidden)} hidden words right"


def duration(seconds: float) -> str:
    """Returns a time for readers: `8.2 s`, `74 s`, `5 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def signed(number: float, decimals: int = 1) -> str:
    """Returns a number with its sign, a true minus, and none for zero."""
    text = f"{number:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """Returns the words as a list in a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _were(number: int, thing: str) -> str:
    return f"1 {thing} was" if number == 1 else f"{number:,} {thing}s were"


def _gap(true: float, shuffled: float) -> float:
    """The difference of two losses as shown, so that a reader who subtracts gets the same number."""
    return round(round(shuffled, 2) - round(true, 2), 2)


def _is_a_guess(variant: VariantResult) -> bool:
    chance = guessing(variant.tasks).get("overall")
    return chance is not None and variant.summary["overall"] <= chance
