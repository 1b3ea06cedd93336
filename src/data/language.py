"""Guesses the language of a text from scripts and words, as far as it matters for SQuAD's scoring rules."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import islice

# Scripts that are written without spaces between words, by the first word of their letters' Unicode names.
SPACELESS = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "THAI": "Thai",
    "LAO": "Lao",
    "KHMER": "Khmer",
    "MYANMAR": "Burmese",
    "TIBETAN": "Tibetan",
}
# Frequent words that the other languages here do not have.
FUNCTION_WORDS = {
    "English": "the of and to that for with by from which",
    "German": "der das und ist nicht den von mit dem ein",
    "French": "le les des est et dans du qui pour une",
    "Spanish": "el los las del y por en su como fue",
    "Italian": "il che di della per gli nel è sono dal",
    "Portuguese": "o os da do não uma em para dos ao",
    "Dutch": "het een van dat niet zijn op voor met aan",
    "Swedish": "och att som är det på för av till",
    "Polish": "w z na się jest nie oraz przez od do",
}
SCRIPT_SHARE = 0.3  # a script counts from this share of the letters on
WORD_SHARE = 0.05  # function words only count from this share of the words on
PASSAGES_READ = 1000


def remark(passages: Iterable[str]) -> str | None:
    """A remark on what the language of the passages means for the scores; None for English or an unknown language."""
    text = " ".join(islice(passages, PASSAGES_READ))
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            scripts[unicodedata.name(character, "?").split()[0]] += count
    letters = max(1, scripts.total())
    spaceless = {script: scripts[script] for script in SPACELESS if scripts[script]}
    if sum(spaceless.values()) > SCRIPT_SHARE * letters:
        kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
        name = "Japanese" if kana > 0.05 * letters else SPACELESS[max(spaceless, key=lambda each: spaceless[each])]
        return (
            f"The passages look like {name}, which is written without spaces between words. SQuAD's rules split "
            "answers into words at spaces: F1 is then all or nothing for most answers, as exact match is."
        )
    articles = (
        "SQuAD's rules drop the English articles a, an and the before they compare answers, and the articles of no "
        "other language: an answer with one article more is not an exact match."
    )
    script = max(scripts, key=lambda each: scripts[each], default="LATIN")
    if script != "LATIN":
        return f"The passages look like text in {script.capitalize()} script. {articles}"
    words = Counter(re.findall(r"\w+", text.lower()))
    hits = {name: sum(words[word] for word in few.split()) for name, few in FUNCTION_WORDS.items()}
    likely = max(hits, key=lambda name: hits[name])
    if likely == "English" or hits[likely] < max(2 * hits["English"], WORD_SHARE * words.total()):
        return None
    return f"The passages look like {likely}. {articles}"
