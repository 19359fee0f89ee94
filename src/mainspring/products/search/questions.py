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
