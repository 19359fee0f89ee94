"""Language tags: parsing, canonical form and names of files turned into tags (BCP 47 = RFC 5646; ISO 639;
CLDR).

A tag is what documents carry and what mixtures balance, so one language must have one spelling: the
two-letter code where ISO 639-1 has one, script and region in their usual case, `no` beside `nb` and `nn` left
as they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mainspring.errors import DataError

# ISO 639-2/T and 639-3 codes of the languages that have an ISO 639-1 code.
_ALIASES = (
    "aar:aa abk:ab afr:af aka:ak amh:am ara:ar arg:an asm:as ava:av ave:ae aym:ay aze:az bak:ba "
    "bam:bm bel:be ben:bn bis:bi bod:bo bos:bs bre:br bul:bg cat:ca ces:cs cha:ch che:ce chu:cu "
    "chv:cv cor:kw cos:co cre:cr cym:cy dan:da deu:de div:dv dzo:dz ell:el eng:en epo:eo est:et "
    "eus:eu ewe:ee fao:fo fas:fa fij:fj fin:fi fra:fr fry:fy ful:ff gla:gd gle:ga glg:gl glv:gv "
    "grn:gn guj:gu hat:ht hau:ha heb:he her:hz hin:hi hmo:ho hrv:hr hun:hu hye:hy ibo:ig ido:io "
    "iii:ii iku:iu ile:ie ina:ia ind:id ipk:ik isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kas:ks "
    "kat:ka kau:kr kaz:kk khm:km kik:ki kin:rw kir:ky kom:kv kon:kg kor:ko kua:kj kur:ku lao:lo "
    "lat:la lav:lv lim:li lin:ln lit:lt ltz:lb lub:lu lug:lg mah:mh mal:ml mar:mr mkd:mk mlg:mg "
    "mlt:mt mon:mn mri:mi msa:ms mya:my nau:na nav:nv nbl:nr nde:nd ndo:ng nep:ne nld:nl nno:nn "
    "nob:nb nor:no nya:ny oci:oc oji:oj ori:or orm:om oss:os pan:pa pli:pi pol:pl por:pt pus:ps "
    "que:qu roh:rm ron:ro run:rn rus:ru sag:sg san:sa sin:si slk:sk slv:sl sme:se smo:sm sna:sn "
    "snd:sd som:so sot:st spa:es sqi:sq srd:sc srp:sr ssw:ss sun:su swa:sw swe:sv tah:ty tam:ta "
    "tat:tt tel:te tgk:tg tgl:tl tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk tur:tr twi:tw uig:ug "
    "ukr:uk urd:ur uzb:uz ven:ve vie:vi vol:vo wln:wa wol:wo xho:xh yid:yi yor:yo zha:za zho:zh "
    "zul:zu "
    # ISO 639-2/B spellings
    "alb:sq arm:hy baq:eu bur:my chi:zh cze:cs dut:nl fre:fr geo:ka ger:de gre:el ice:is mac:mk "
    "mao:mi may:ms per:fa rum:ro slo:sk tib:bo wel:cy "
    # the usual member of a macrolanguage stands for it (CLDR supplemental languageAlias)
    "cmn:zh arb:ar pes:fa swh:sw zsm:ms azj:az ekk:et lvs:lv khk:mn plt:mg uzn:uz ydd:yi ory:or "
    "npi:ne als:sq pbu:ps gug:gn gaz:om kmr:ku knc:kr quz:qu fuc:ff hbs:sh "
    # withdrawn two-letter codes
    "iw:he in:id ji:yi jw:jv mo:ro "
)
_TWO_LETTERS = dict(pair.split(":") for pair in _ALIASES.split())

_SUBTAG = re.compile(r"[A-Za-z0-9]{1,8}")
_LANGUAGE = re.compile(r"[a-z]{2,8}")
_EXTLANG = re.compile(r"[a-z]{3}")
_SCRIPT = re.compile(r"[a-z]{4}")
_REGION = re.compile(r"[a-z]{2}|[0-9]{3}")
_VARIANT = re.compile(r"[a-z0-9]{5,8}|[0-9][a-z0-9]{3}")

# Names that corpora use for scripts, varieties and spellings, as the subtags registered for them.
_SPELT = {
    "cyrillic": "cyrl",
    "latin": "latn",
    "arabic": "arab",
    "monotonic": "monoton",
    "polytonic": "polyton",
    "mong": "mong",
    "kreyol": "x-kreyol",
    "popular": "x-popular",
    "tones": "x-tones",
    "chechewa": "x-chechewa",
    "chinyanja": "x-nyanja",
}


class LanguageTag(NamedTuple):
    """A well-formed BCP 47 tag in canonical form; `str(tag)` spells it."""

    language: str
    """ISO 639 code, lower case; `und` where undetermined."""
    script: str | None = None
    """ISO 15924 code such as `Cyrl`."""
    region: str | None = None
    """ISO 3166 or UN M.49 code such as `BR` or `419`."""
    variants: tuple[str, ...] = ()
    """Registered varieties or spellings such as `1901`."""
    private: tuple[str, ...] = ()
    """What follows `x-`."""

    def __str__(self) -> str:
        middle = [part for part in (self.script, self.region) if part]
        tail = ["x", *self.private] if self.private else []
        return "-".join([self.language, *middle, *self.variants, *tail])


def language_tag(tag: str) -> LanguageTag:
    """Parse a tag, with `-` or `_` between subtags, into canonical form.

    >>> str(language_tag("zho_hant_tw")), str(language_tag("deu-1901"))
    ('zh-Hant-TW', 'de-1901')

    Raises:
        DataError: the tag is not well formed.
    """
    parts = tag.strip().replace("_", "-").lower().split("-")
    if not all(_SUBTAG.fullmatch(part) for part in parts):
        raise DataError(
            f"language tag {tag!r}: subtags are 1 to 8 letters or digits joined by '-', as in 'zh-Hant-TW'"
        )
    private: tuple[str, ...] = ()
    if "x" in parts:
        cut = parts.index("x")
        parts, private = parts[:cut], tuple(parts[cut + 1 :])
        if not private:
            raise DataError(f"language tag {tag!r}: nothing follows 'x'")
    if not parts:
        return LanguageTag("und", private=private)
    if not _LANGUAGE.fullmatch(parts[0]):
        raise DataError(
            f"language tag {tag!r}: {parts[0]!r} is not a language code (2 to 8 letters, ISO 639)"
        )
    language, rest = parts[0], parts[1:]
    if rest and len(language) <= 3 and _EXTLANG.fullmatch(rest[0]):
        language, rest = rest[0], rest[1:]  # zh-yue is yue (RFC 5646, section 4.5)
    script = rest.pop(0).title() if rest and _SCRIPT.fullmatch(rest[0]) else None
    region = rest.pop(0).upper() if rest and _REGION.fullmatch(rest[0]) else None
    variants: list[str] = []
    while rest and _VARIANT.fullmatch(rest[0]):
        variants.append(rest.pop(0))
    if rest:
        raise DataError(f"language tag {tag!r}: {rest[0]!r} is no script, region or variant in that place")
    return LanguageTag(_TWO_LETTERS.get(language, language), script, region, tuple(variants), private)


def tag_of_name(name: str) -> LanguageTag:
    """Tag of a corpus file named by language, such as `por_BR`, `ell_monotonic`, `pes_1` or `007`.

    What BCP 47 has no subtag for becomes a private subtag, so that every file has a tag of its own.

    >>> str(tag_of_name("ell_monotonic")), str(tag_of_name("pes_1")), str(tag_of_name("007"))
    ('el-monoton', 'fa-x-1', 'und-x-007')
    """
    first, *rest = name.split("_")
    if not _LANGUAGE.fullmatch(first.lower()):
        return language_tag("-".join(["x", *(part[:8] for part in [first, *rest])]))
    spelt = [_SPELT.get(part.lower(), part) for part in rest]
    try:
        return language_tag("-".join([first, *spelt]))
    except DataError:
        return language_tag("-".join([first, "x", *(part[:8] for part in rest)]))
