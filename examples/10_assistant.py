# %% [markdown]
# # 10. An assistant
#
# It understands what is wanted and the details that go with it (one encoder, two heads), asks back
# when a detail is missing, says so when it cannot help, and answers questions from a text. Both
# models start from `weights/bert-mini` and learn from sentences that this script makes up, so
# everything runs offline.
#
# Run it: `python examples/10_assistant.py` from a clone (about a minute);
# with `--talk` it then talks to you

# %%
import random
import sys
import tempfile
from pathlib import Path

import minilm

START = Path(minilm.__file__).parent.parent / "weights" / "bert-mini"
home = Path(tempfile.mkdtemp())
draw = random.Random(0)

# %% [markdown]
# ## Utterances
# A record is a list of words with a tag each, and an intent. `{room}` in a pattern stands for a
# slot; patterns without it teach the assistant that people leave things out.
#
# What to expect: all 40 held-out utterances right in one run. They are made of the same patterns,
# so that says little about other sentences; the last section has some.

# %%
SLOTS = {
    "room": ["kitchen", "hall", "bedroom", "garden", "living room", "office", "cellar"],
    "state": ["on", "off"],
    "duration": ["ten minutes", "half an hour", "two hours", "90 seconds", "a quarter of an hour"],
    "dish": ["rice", "pizza", "bread", "soup", "potatoes", "cake"],
}
PATTERNS = {
    "light": [
        "turn {state} the light in the {room}",
        "switch the {room} light {state}",
        "please turn the lamp in the {room} {state}",
        "turn {state} the light",
        "light {state} please",
        "lights {state} in the {room}",
    ],
    "timer": [
        "set a timer for {duration}",
        "remind me of the {dish} in {duration}",
        "wake me in {duration}",
        "timer for the {dish} please",
        "set a timer",
        "start a timer of {duration} for the {dish}",
    ],
    "question": [
        "who looks after the {room}",
        "where is the key of the {room}",
        "when does the {room} open",
        "who has the key of the {room}",
        "where do we keep the {dish}",
        "when is the {dish} ready",
    ],
    "other": [
        "how tall is the highest mountain",
        "book a flight to the north",
        "what a lovely morning",
        "sell all of my shares",
        "sing me a song about rivers",
        "write a letter to my landlord",
        "how many people live in this town",
        "translate this into french",
    ],
}
ASKED = {"question", "other"}  # intents whose words are no slots


def utterance(intent: str) -> dict[str, object]:
    """A made-up utterance."""
    tokens, tags = [], []
    for piece in draw.choice(PATTERNS[intent]).split():
        name = piece.strip("{}")
        words = draw.choice(SLOTS[name]).split() if piece.startswith("{") else [piece]
        inside = piece.startswith("{") and intent not in ASKED
        tokens += words
        tags += [f"{'I' if n else 'B'}-{name}" if inside else "O" for n in range(len(words))]
    return {"tokens": tokens, "tags": tags, "intent": intent}


records = [utterance(intent) for intent in PATTERNS for _ in range(60)]
draw.shuffle(records)
print(records[0])
result = minilm.finetune(
    "utterances",
    START,
    records[40:],
    home / "understanding",
    dev=records[:40],
    settings=minilm.FinetuningSettings(
        epochs=6, learning_rate=5e-4, options={"out_of_scope": "other"}
    ),
)
print(f"intent and all slots right: {result.scores['both_right']:.1%}")

# %% [markdown]
# ## Answers
# The knowledge is a list of sentences, and an answer is a part of one. Training sentences are of
# the same kinds, about other things. Every fourth question is not answered by its sentence.

# %%
THINGS = ["boat", "library", "workshop", "stable", "museum", "tower", "chapel", "barn", "pool"]
PEOPLE = ["Mr Ash", "Mrs Birch", "Tom", "Ellen", "the gardener", "Dr Rowan", "Aunt Lily"]
PLACES = ["under the stairs", "behind the door", "in the blue box", "on the upper shelf"]
TIMES = ["at nine", "at half past ten", "on Mondays", "in the evening", "after lunch"]
FACTS = [
    ("{value} looks after the {thing}.", "Who looks after the {thing}?", PEOPLE),
    ("The key of the {thing} is {value}.", "Where is the key of the {thing}?", PLACES),
    ("The {thing} opens {value}.", "When does the {thing} open?", TIMES),
]


def question(number: int) -> dict[str, object]:
    """A made-up sentence with a question."""
    thing, (sentence, query, values) = draw.choice(THINGS), draw.choice(FACTS)
    value = draw.choice(values)
    context = sentence.format(value=value, thing=thing)
    answers = [{"text": value, "answer_start": context.index(value)}]
    if number % 4 == 0:
        query, answers = draw.choice([fact for _, fact, _ in FACTS if fact != query]), []
    return {
        "id": str(number),
        "question": query.format(thing=thing),
        "context": context,
        "answers": answers,
    }


questions = [question(number) for number in range(600)]
result = minilm.finetune(
    "answering",
    START,
    questions[60:],
    home / "answering",
    dev=questions[:60],
    settings=minilm.FinetuningSettings(epochs=3, batch_size=16, learning_rate=3e-4, max_length=64),
)
print(f"answers: exact {result.scores['exact']:.1f} %, F1 {result.scores['f1']:.1f} %")

# %% [markdown]
# ## The conversation
# The assistant asks for a missing detail and takes the next sentence as the answer. For a question,
# the sentences that mention its thing are read one after the other.

# %%
KNOWLEDGE = [
    "Mrs Snow looks after the kitchen.",
    "The key of the cellar is in the third drawer.",
    "The garden opens after breakfast.",
    "Tom looks after the cellar.",
]
NEEDED = {"light": ["room", "state"], "timer": ["duration"]}
ASK = {"room": "In which room?", "state": "On or off?", "duration": "For how long?"}
understand = minilm.Predictor.from_pretrained(home / "understanding")
read = minilm.Predictor.from_pretrained(home / "answering")


def words(text: str) -> set[str]:
    return set(text.lower().rstrip("?.!").split())


USUAL = words(" ".join(query.format(thing="") for _, query, _ in FACTS).replace("?", ""))


def look_up(question: str) -> str:
    for sentence in KNOWLEDGE:
        if words(sentence) & (words(question) - USUAL):
            answer = read(question, sentence)["answer"]
            if answer:
                return answer[0].upper() + answer[1:] + "."
    return "I do not know."


class Assistant:
    """Remembers what it asked for."""

    def __init__(self) -> None:
        self.intent, self.slots, self.waiting = "", {}, ""

    def reply(self, text: str) -> str:
        if self.waiting:
            self.slots[self.waiting] = text.rstrip(".!")
        else:
            found = understand(text.lower())
            self.intent = found["intent"]
            self.slots = {entity["type"]: entity["text"] for entity in found["entities"]}
        if self.intent == "question":
            return look_up(text)
        if self.intent not in NEEDED:
            return "I cannot help with that."
        missing = [name for name in NEEDED[self.intent] if name not in self.slots]
        self.waiting = missing[0] if missing else ""
        if missing:
            return ASK[missing[0]]
        if self.intent == "light":
            return f"The light in the {self.slots['room']} is {self.slots['state']}."
        dish = f" for the {self.slots['dish']}" if "dish" in self.slots else ""
        return f"A timer{dish}: {self.slots['duration']}."


assistant = Assistant()
for said, expected in (
    ("Turn on the light in the kitchen", "The light in the kitchen is on."),
    ("Set a timer for the rice", "For how long?"),
    ("ten minutes", "A timer for the rice: ten minutes."),
    ("Who looks after the cellar?", "Tom."),
    ("Where is the key of the cellar?", "In the third drawer."),
    ("When does the kitchen open?", "I do not know."),
    ("Book a flight to the south", "I cannot help with that."),
):
    reply = assistant.reply(said)
    print(f"> {said}\n  {reply}")
    assert reply == expected

# %%
if "--talk" in sys.argv:
    for line in iter(lambda: input("> "), ""):
        print(" ", assistant.reply(line))

# %% [markdown]
# ## Your turn
# - Teach it something new: an intent "music" with the patterns "play {song}" and "put on some
#   {song} please", the slot "song", and what it answers. Four places change; which?
# - Ask it for something that no pattern has. What does it take "open the window" for, and which
#   list would you make longer to stop that?
# - It was trained on patterns and is tested on patterns. Write ten sentences of your own, count how
#   many it gets right, and compare with the score printed above.
