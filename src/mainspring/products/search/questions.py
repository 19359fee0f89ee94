"""Whether a query is a question: answers are given to questions alone."""

from __future__ import annotations

import re

_MARKS = ("?", "？", "؟", ";", "¿")
_WORDS = re.compile(
    r"^\W*(?:"
    # English, with the verbs that begin a yes/no question
    r"who|whom|whose|what|when|where|which|why|how|is|are|was|were|am|do|does|did|can|could|will|would|should|"
    r"shall|has|have|had|may|might|must|"
    # German, French, Spanish, Italian, Portuguese, Dutch
    r"wer|wen|wem|wessen|was|wann|wo|wohin|woher|warum|wieso|weshalb|wie|welche[rsmn]?|"
    r"qui|que|quoi|quand|où|pourquoi|comment|combien|quel(?:le)?s?|est-ce|"
    r"quién(?:es)?|qué|cuándo|dónde|cómo|cuál(?:es)?|cuánt[oa]s?|"
    r"chi|che|cosa|quando|dove|perché|come|quale|quali|quant[oaie]|"
    r"quem|onde|porquê|qual|quais|"
    r"wie|wat|wanneer|waar|waarom|hoe|welke?|"
    # Russian, Turkish, Vietnamese, Greek, Romanian
    r"кто|что|когда|где|куда|почему|зачем|как|какой|какая|какие|какое|сколько|чей|"
    r"kim|ne|nerede|neden|niçin|nasıl|hangi|kaç|"
    r"ai|ποιος|ποια|ποιο|τι|πότε|πού|γιατί|πώς|πόσο|cine|ce|când|unde|cum|care|cât"
    r")\b",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    "什么|谁|哪|为什么|怎么|如何|多少|几|吗|何|誰|いつ|どこ|なぜ|どう|ですか|누구|무엇|언제|어디|왜|어떻게|ใคร|อะไร|เมื่อไร|ที่ไหน|ทำไม|อย่างไร|क्या|कौन|कब|कहाँ|क्यों|कैसे|كم|من|ما|متى|أين|لماذا|كيف|هل"
)


def is_question(query: str) -> bool:
    """Whether a query asks something: by its mark, or by a question word of its language.

    >>> is_question("how do springs store energy"), is_question("spring energy")
    (True, False)
    """
    text = query.strip()
    return text.endswith(_MARKS) or _WORDS.match(text) is not None or _ANYWHERE.search(text) is not None


_POLAR = re.compile(
    r"^\W*(?:"
    # English, German, French, Spanish, Italian, Dutch: the verb comes first, or a phrase that says so
    r"(?:is|are|was|were|am|do|does|did|can|could|will|would|should|shall|has|have|had|may|might|must)(?:n't)?|"
    r"ist|sind|war|waren|hat|haben|hatte|kann|können|darf|dürfen|muss|müssen|soll|sollte|wird|werden|gibt es|"
    r"est-ce que|est-ce qu|y a-t-il|"
    r"es cierto|existe|hay|puede|pueden|"
    r"esiste|può|"
    r"kan|zijn|heeft"
    r")\b(?!\s+(?:who|what|when|where|which|why|how)\b)",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"\bor\b|\boder\b|\bou\b|\bo\b(?=\s+\w)", re.IGNORECASE)
_POLAR_ANYWHERE = re.compile(
    r"吗|嗎|ですか|有没有|是否|^هل |^क्या |\sли\s|หรือไม่|(?:^|\s)(?:mı|mi|mu|mü)(?:dır|dir|dur|dür)?\s*\??$"
)


def is_polar(question: str) -> bool:
    """Whether a question is answered by yes or no; one between two things is not.

    >>> is_polar("is steel magnetic"), is_polar("what is steel"), is_polar("is it red or blue?")
    (True, False, False)
    """
    text = question.strip()
    asks = _POLAR.match(text) is not None or _POLAR_ANYWHERE.search(text) is not None
    return asks and _CHOICE.search(text) is None
