"""Write the data of the stage examples, always the same: python examples/stages/make_data.py

The island is prose about facts that are all in ``island.toml``; the held-out paragraphs tell the same facts in
sentences of their own. The preferences set a short, direct answer against a long-winded, hedging or evasive one; the
held-out pairs are about other topics. All of it was written for this project.
"""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
SEED = 20
PAIRS, PROMPTS = 300, 120
HELD_OUT_PAIRS, HELD_OUT_PROMPTS = 60, 32


class Question(NamedTuple):
    """What is asked, the short true answer, and what it is about."""

    text: str
    answer: str
    subject: str


# ---- the island ---------------------------------------------------------------------------------------------------


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def island(rng: random.Random) -> tuple[list[str], list[str]]:
    """Paragraphs to train on and paragraphs held out, which share every fact and no sentence."""
    world = tomllib.loads((HERE / "island.toml").read_text(encoding="utf-8"))
    train: list[str] = []
    held_out: list[str] = []
    for kind in world.values():
        things = [dict(zip(kind["columns"], row.split(" | "), strict=True)) for row in kind["rows"].split("\n") if row]
        for index, thing in enumerate(things):
            words = {**thing, "friend": things[index - 1]["name"]}
            words |= {f"{name}_c": capital(value) for name, value in words.items()}
            told = [[capital(form.format(**words)) for form in fact.split("|")] for fact in kind["facts"]]
            for forms in told:
                rng.shuffle(forms)
            held_out.append(paragraph(rng, [forms[0] for forms in told]))
            train += [paragraph(rng, [forms[way] for forms in told]) for way in range(1, len(told[0]))]
    rng.shuffle(train)
    return train, held_out


def paragraph(rng: random.Random, sentences: list[str]) -> str:
    return " ".join(rng.sample(sentences, len(sentences)))


# ---- questions and short answers ----------------------------------------------------------------------------------


def questions(rng: random.Random, held_out: bool) -> list[Question]:
    """Every question of the topics that are held out, or of those that are not, mixed."""
    topics = tomllib.loads((HERE / "questions.toml").read_text(encoding="utf-8")).values()
    found = [asked for topic in topics if topic.get("held_out", False) == held_out for asked in of_topic(rng, topic)]
    if not held_out:
        found += sums(rng)
    rng.shuffle(found)
    return found


def of_topic(rng: random.Random, topic: dict[str, Any]) -> list[Question]:
    asked, answered = topic.get("question", ["{0}"]), topic.get("answer", ["{1}"])
    lines = [line.split(" | ") for line in topic["lines"].split("\n") if line]
    return [
        Question(rng.choice(asked).format(*line), capital(rng.choice(answered).format(*line)), topic["subject"])
        for line in lines
    ]


def sums(rng: random.Random) -> list[Question]:
    """Small sums, prices, measures and times of the day."""
    found = []
    for _ in range(34):
        a, b, minutes, hour = rng.randint(12, 60), rng.randint(3, 12), rng.randint(2, 11) * 5, rng.randint(1, 10)
        price, metres = rng.randint(2, 9), rng.randint(2, 40)
        found += [
            Question(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.", "sums"),
            Question(f"How much is {b} times {price}?", f"{b} times {price} is {b * price}.", "sums"),
            Question(f"A ticket costs {price} euros. What do {b} cost?", f"They cost {b * price} euros.", "prices"),
            Question(f"How many centimetres are {metres} metres?", f"That is {metres * 100} centimetres.", "measures"),
            Question(f"What time is it {minutes} minutes after {hour}:00?", f"It is {hour}:{minutes:02}.", "time"),
        ]
    return list({question.text: question for question in found}.values())


# ---- answers that nobody wants ------------------------------------------------------------------------------------

OPENERS = """
Well, that is certainly an interesting question, and there are many ways in which one could look at {subject}.
Thank you so much for asking, it is always a pleasure to think a little about {subject}.
When it comes to {subject}, opinions differ, and perhaps that is how it should be.
I suppose it depends on what exactly you have in mind.
Before I say anything, let me point out that {subject} can be a rather complicated matter.
People have wondered about {subject} for a very long time, and they will probably go on doing so.
Hmm, I would not want to commit myself too quickly here.
There may be several possible views on this, and I am not sure which of them you would prefer.
As with so many things in life, it is hard to give a simple reply.
It is great that you take an interest in {subject}, because not everybody does.
To be perfectly honest, I might not be the best one to ask about {subject}.
In order to understand this properly, one would perhaps first have to consider the wider background of {subject}.
Some would say that the matter is clear, while others would possibly disagree.
Let us take a step back and think about why anybody would ask this.
This could be seen from a number of different angles.
"""
REMARKS = """
On the one hand there is a lot to be said, and on the other hand there might be just as much to be said against it.
It could be argued that circumstances matter a great deal, although I cannot say which circumstances those would be.
Generally speaking, things tend to be the way they are for a reason, or possibly for several reasons.
I have heard different things about it, and some of them may well be true.
Naturally, everything depends on the situation, on your experience, and maybe on other factors as well.
It seems to me that one should keep an open mind and not jump to conclusions.
Of course there are whole books about {subject}, and it would take a while to go through all of them.
Perhaps it would help to know a little more about your situation first.
In some cases it may be one way, and in other cases it may be quite another.
What matters most, I think, is that you feel comfortable with whatever you decide to believe.
Many people find this kind of thing confusing, so you are probably not alone.
Experts might be able to tell you more, but even they do not always agree.
"""
LATE_ANSWERS = """
If I really had to say something, it might be this: {answer}
After going back and forth for a while, one could possibly put it like this: {answer}
Some people would perhaps tell you the following: {answer}
So, with all of that in mind, and without any guarantee, maybe: {answer}
I believe, although I may be mistaken, that this could be right: {answer}
"""
CLOSERS = """
But then again, I could be quite wrong about that, so please do not rely on it.
In any case, you may want to ask somebody who knows more about {subject}.
I hope that this helps at least a little, and feel free to ask again if anything remains unclear.
Whether that is of any use to you is of course for you to decide.
That said, there might be exceptions, and there might be exceptions to the exceptions.
All in all, it is probably best to look it up somewhere else to be on the safe side.
Still, I would rather not say anything definite at this point.
As I said before, it really does depend.
"""
SHAPES = (  # long-winded, hedging, evasive, and right at first but never done
    (OPENERS, REMARKS, LATE_ANSWERS),
    (OPENERS, REMARKS, LATE_ANSWERS, CLOSERS),
    (OPENERS, LATE_ANSWERS, CLOSERS),
    (OPENERS, REMARKS, CLOSERS),
    (REMARKS, CLOSERS),
    ("{answer}", REMARKS, CLOSERS),
    ("{answer}", CLOSERS),
)


def unwanted(rng: random.Random, question: Question) -> str:
    parts = [rng.choice(part.strip().split("\n")) for part in rng.choice(SHAPES)]
    return " ".join(parts).format(subject=question.subject, answer=question.answer)


# ---- the files ----------------------------------------------------------------------------------------------------


def write(name: str, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (HERE / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_split(rng: random.Random, suffix: str, pairs: int, prompts: int) -> None:
    """Preferences, the same as single answers with a tag in another order, and other questions of the same topics."""
    asked = questions(rng, held_out=bool(suffix))
    assert len(asked) >= pairs + prompts, f"{len(asked)} questions are too few"
    ranked = [{"instruction": q.text, "chosen": q.answer, "rejected": unwanted(rng, q)} for q in asked[:pairs]]
    tagged = [
        {"instruction": row["instruction"], "output": row[side], "wanted": side == "chosen"}
        for row in ranked
        for side in ("chosen", "rejected")
    ]
    rng.shuffle(tagged)
    write(f"preferences{suffix}.jsonl", ranked)
    write(f"feedback{suffix}.jsonl", tagged)
    write(f"prompts{suffix}.jsonl", [{"instruction": q.text, "output": q.answer} for q in asked[pairs:][:prompts]])


def main() -> None:
    for_island, for_training, for_held_out = map(random.Random, range(SEED, SEED + 3))
    train, held_out = island(for_island)
    write("island.jsonl", [{"text": text} for text in train])
    write("island_held_out.jsonl", [{"text": text} for text in held_out])
    write_split(for_training, "", PAIRS, PROMPTS)
    write_split(for_held_out, "_held_out", HELD_OUT_PAIRS, HELD_OUT_PROMPTS)


if __name__ == "__main__":
    main()
