"""What small stories say beside who does what: openings, scenery, feelings, and those who are only spoken of."""

from __future__ import annotations

from engine.miniature import words

# Nobody draws these unless the story gives their picture: then they are on its list of characters.
OTHERS = (
    *words.NEW_CHARACTERS, "unicorn", "knight", "snail", "cat", "dog", "turtle", "girl", "boy", "mouse", "horse",
    "astronaut", "bear", "bird", "teacher", "pirate", "duck",
)  # fmt: skip
SCENERY = (
    "The sun was shining.", "It was cold.", "The wind was blowing.", "It was a beautiful day.", "Everything was quiet.",
    "Nobody else was there.", "The air smelled of summer.", "A bell rang far away.", "What a day it was!",
    "The clouds were grey.", "Leaves were rustling.", "Soft music was playing.", "How strange it all was!",
    "It is getting late.", "Nobody knows why.", "That is how it was.", "Everyone laughed.", "All the others cheered.",
    "Birds were singing.", "It rained a little.", "There was not a sound.", "Nothing else happened.", "The end.",
    "And so the day went by.", "It was a Monday.", "Who would have thought that?", "Time passes.",
    "The light was golden.", "Nobody noticed.", "What fun!", "Something was in the air.", "The world was still young.",
)  # fmt: skip
INTRODUCTIONS = (
    "Once upon a time there was {who}.", "This is the story of {who}.", "Once there was {who} who lived {place}.",
    "There lived {who} {place}.", "Long ago {who} lived {place}.", "Do you know the tale of {who}?",
    "Everybody had heard of {who}.", "{place} lived {who}.",
)  # fmt: skip
OPENINGS = (
    "One day", "Once upon a time", "Early in the morning", "Later", "The next day", "Suddenly", "After that", "Soon",
    "In the end", "A moment later", "At last", "Then", "Then", "Meanwhile", "Now", "Today", "In the afternoon",
    "After breakfast", "A week later", "Finally", "Again", "To everyone's surprise", "Without a word", "This time",
)  # fmt: skip
ADVERBS = (
    "happily", "slowly", "all alone", "quickly", "with a smile", "once more", "all by itself", "for a while",
    "without a sound", "at once", "quietly", "proudly", "carefully", "for no reason", "as usual", "gladly",
)  # fmt: skip
BESIDE = ("Beside it", "Next to it", "At its side", "Near it", "Right beside it", "At the same time", "Next to them")
MEETINGS = {
    "past": ("met", "ran towards each other", "came together", "walked up to each other", "went to meet each other",
             "walked towards each other", "came towards each other"),
    "present": ("meet", "run towards each other", "come together", "walk up to each other", "go to meet each other",
                "walk towards each other", "come towards each other"),
}  # fmt: skip

# Who is spoken of is not there.
SPOKEN_OF = (
    "thinking of the {who}", "dreaming of {a}", "looking for the {who}", "singing a song about {a}",
    "with a letter from the {who}", "wearing a scarf of the {who}'s", "humming the tune that the {who} had taught it",
    "far away from the {who}", "just like {a}", "holding a picture of {a}", "as quiet as {a}",
    "without telling the {who}", "with a toy {who}", "missing its friend the {who}", "after a talk with the {who}",
)  # fmt: skip
CLAUSES = {  # after "the fox, "
    "past": ("who was tired", "who was very small", "full of joy", "who had slept badly", "a friend of the {other}",
             "who had never seen {a}", "which somebody had painted blue", "who once knew {a}", "proud as a king",
             "whom everybody liked"),
    "present": ("who is tired", "who is very small", "full of joy", "who lives nearby", "a friend of the {other}",
                "who has never seen {a}", "the best friend of the {other}", "who is afraid of the {other}",
                "proud as a king", "whom everybody likes"),
}  # fmt: skip
FEELINGS = {  # after "It " or "The fox "
    "past": ("was happy", "was hungry", "was very tired", "was not afraid", "had lost something", "did not say a word",
             "did not cry", "wanted to see the {other}", "liked that very much", "thought of the {other}",
             "did not know the way", "felt better now", "was looking for the {other}", "never went to the beach",
             "did not jump and did not dance", "could not fly", "had dreamed of the city", "did not run away",
             "had no idea where the {other} was", "said nothing", "knew a secret", "was bored", "was proud of it",
             "had heard of the {other}", "did not move on", "hoped for snow", "felt a little dizzy", "fell ill",
             "was out of breath", "laughed a lot", "had never been so glad", "believed in magic", "forgot the time",
             "was the winner", "had a cold", "wished to try it, too", "woke up late", "was as proud as the {other}"),
    "present": ("is happy", "is hungry", "is very tired", "is not afraid", "has lost something", "does not say a word",
                "wants to see the {other}", "likes that very much", "dreams of the {other}", "does not know the way",
                "feels better now", "is looking for the {other}", "cannot fly", "does not dance", "knows a secret",
                "does not run away", "has never been to the city", "says nothing", "is bored", "is proud of it",
                "has heard of the {other}", "wants to be on the beach", "cannot swim", "has all the time in the world",
                "feels a little dizzy", "is out of breath", "laughs a lot", "believes in magic", "forgets the time",
                "is the winner", "has a cold", "wishes to try it, too", "wakes up late"),
}  # fmt: skip

# Clauses about those whom nobody can draw: present, past.
UNDRAWN = tuple(
    (f"{who} {now}", f"{who} {then}")
    for who, does in {
        "a dragon": (("sleeps far away", "slept far away"), ("spits fire", "spat fire"), ("flies by", "flew by")),
        "two cats": (("sit on a wall", "sat on a wall"), ("look on", "looked on"), ("chase a mouse", "chased a mouse")),
        "some children": (("sing", "sang"), ("play with a ball", "played with a ball"), ("laugh", "laughed")),
        "an old man": (("reads the newspaper", "read the newspaper"), ("takes a photo", "took a photo")),
        "a dog": (("barks", "barked"), ("runs away", "ran away"), ("jumps over a stick", "jumped over a stick")),
        "a ghost": (("hides", "hid"), ("dances far away", "danced far away")),
        "the people": (("clap", "clapped"), ("wait for a train", "waited for a train"), ("cheer", "cheered")),
        "a bird": (("sings", "sang"), ("builds a nest", "built a nest"), ("flies past", "flew past")),
        "a boat": (("passes by", "passed by"), ("sinks", "sank")),
        "a snail": (("takes a rest", "took a rest"), ("crawls by", "crawled by")),
        "a band": (("plays", "played"),),
        "the sun": (("goes down", "went down"), ("comes out", "came out")),
        "a knight": (("falls off his horse", "fell off his horse"), ("walks to the left", "walked to the left")),
        "the clouds": (("grow bigger", "grew bigger"), ("move on", "moved on")),
        "a leaf": (("falls down", "fell down"), ("spins around", "spun around")),
    }.items()
    for now, then in does
)
