"""The languages that are corrected, in families by script and descent that share an error model.

A family's members spell alike and are typed alike, so what is learnt from misspellings of one serves those
of which no misspellings are known (zero-shot). Descent follows Glottolog's top groupings, coarsened.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mainspring.errors import DataError, UsageError, suggest
from mainspring.text.languages import language_tag


class Language(NamedTuple):
    """A language that is corrected."""

    tag: str
    """BCP 47."""
    name: str
    """In English."""
    script: str
    """ISO 15924 code."""
    descent: str
    tatoeba: str
    """Its code in the Tatoeba test set; empty where it is not there."""
    udhr: str
    """Its text of the Universal Declaration of Human Rights; empty where it has none."""

    @property
    def family(self) -> str:
        """What it shares an error model with.

        >>> LANGUAGES["sr"].family
        'Cyrl-slavic'
        """
        return f"{self.script}-{self.descent}"


# tag, name, script, descent, Tatoeba, UDHR
_TABLE = """
ace,Acehnese,Latn,austronesian,,ace
af,Afrikaans,Latn,germanic,afr,afr
am,Amharic,Ethi,semitic,amh,amh
ang,Old English,Latn,germanic,ang,
ar,Arabic,Arab,semitic,ara,arb
arq,Algerian Arabic,Arab,semitic,arq,
arz,Egyptian Arabic,Arab,semitic,arz,
ast,Asturian,Latn,romance,ast,ast
awa,Awadhi,Deva,indic,awa,
ay,Aymara,Latn,american,,ayr
az,Azerbaijani,Latn,turkic,aze,azj_latn
ban,Balinese,Latn,austronesian,,ban
bcl,Central Bikol,Latn,austronesian,,bcl
be,Belarusian,Cyrl,slavic,bel,bel
ber,Berber,Latn,berber,ber,
bg,Bulgarian,Cyrl,slavic,bul,bul
bi,Bislama,Latn,creole,,bis
bm,Bambara,Latn,niger-congo,,bam
bn,Bengali,Beng,indic,ben,ben
br,Breton,Latn,celtic,bre,bre
bs,Bosnian,Latn,slavic,bos,bos_latn
ca,Catalan,Latn,romance,cat,cat
cbk,Chavacano,Latn,creole,cbk,
ceb,Cebuano,Latn,austronesian,ceb,ceb
ch,Chamorro,Latn,austronesian,cha,cha
co,Corsican,Latn,romance,,cos
cs,Czech,Latn,slavic,ces,ces
csb,Kashubian,Latn,slavic,csb,
cy,Welsh,Latn,celtic,cym,cym
da,Danish,Latn,germanic,dan,dan
de,German,Latn,germanic,deu,deu
dsb,Lower Sorbian,Latn,slavic,dsb,
dtp,Central Dusun,Latn,austronesian,dtp,
ee,Ewe,Latn,niger-congo,,ewe
el,Greek,Grek,hellenic,ell,ell_monotonic
en,English,Latn,germanic,eng,eng
eo,Esperanto,Latn,constructed,epo,epo
es,Spanish,Latn,romance,spa,spa
et,Estonian,Latn,uralic,est,est
eu,Basque,Latn,basque,eus,eus
fa,Persian,Arab,iranian,pes,pes_1
fi,Finnish,Latn,uralic,fin,fin
fil,Filipino,Latn,austronesian,tgl,tgl
fj,Fijian,Latn,austronesian,,fij
fo,Faroese,Latn,germanic,fao,fao
fr,French,Latn,romance,fra,fra
fur,Friulian,Latn,romance,,fur
fy,Western Frisian,Latn,germanic,fry,fri
ga,Irish,Latn,celtic,gle,gle
gd,Scottish Gaelic,Latn,celtic,gla,gla
gl,Galician,Latn,romance,glg,glg
gn,Guarani,Latn,american,,gug
gsw,Swiss German,Latn,germanic,gsw,
gu,Gujarati,Gujr,indic,,guj
gv,Manx,Latn,celtic,,
ha,Hausa,Latn,chadic,,hau_NG
haw,Hawaiian,Latn,austronesian,,haw
he,Hebrew,Hebr,semitic,heb,heb
hi,Hindi,Deva,indic,hin,hin
hil,Hiligaynon,Latn,austronesian,,hil
hr,Croatian,Latn,slavic,hrv,hrv
hsb,Upper Sorbian,Latn,slavic,hsb,hsb
ht,Haitian Creole,Latn,creole,,hat_kreyol
hu,Hungarian,Latn,uralic,hun,hun
hy,Armenian,Armn,armenian,hye,hye
ia,Interlingua,Latn,constructed,ina,ina
id,Indonesian,Latn,austronesian,ind,ind
ie,Interlingue,Latn,constructed,ile,
ig,Igbo,Latn,niger-congo,,ibo
ilo,Iloko,Latn,austronesian,,ilo
io,Ido,Latn,constructed,ido,ido
is,Icelandic,Latn,germanic,isl,isl
it,Italian,Latn,romance,ita,ita
jv,Javanese,Latn,austronesian,jav,jav
ka,Georgian,Geor,kartvelian,kat,kat
kab,Kabyle,Latn,berber,kab,
kk,Kazakh,Cyrl,turkic,kaz,kaz
kl,Kalaallisut,Latn,eskimo,,kal
kn,Kannada,Knda,dravidian,,kan
ko,Korean,Hang,koreanic,kor,kor
ku,Northern Kurdish,Latn,iranian,kur,
kw,Cornish,Latn,celtic,cor,
ky,Kyrgyz,Cyrl,turkic,,kir
kzj,Coastal Kadazan,Latn,austronesian,kzj,
la,Latin,Latn,romance,lat,lat
lb,Luxembourgish,Latn,germanic,,ltz
lfn,Lingua Franca Nova,Latn,constructed,lfn,
lg,Ganda,Latn,bantu,,lug
ln,Lingala,Latn,bantu,,lin
lt,Lithuanian,Latn,baltic,lit,lit
lv,Latvian,Latn,baltic,lvs,lav
max,North Moluccan Malay,Latn,austronesian,max,
mg,Malagasy,Latn,austronesian,,plt
mhr,Meadow Mari,Cyrl,uralic,mhr,
mi,Maori,Latn,austronesian,,mri
min,Minangkabau,Latn,austronesian,,min
mk,Macedonian,Cyrl,slavic,mkd,mkd
ml,Malayalam,Mlym,dravidian,mal,mal
mn,Mongolian,Cyrl,mongolic,mon,khk
mr,Marathi,Deva,indic,mar,mar
ms,Malay,Latn,austronesian,zsm,
mt,Maltese,Latn,semitic,,mlt
nb,Norwegian Bokmal,Latn,germanic,nob,nob
nds,Low German,Latn,germanic,nds,nds
ne,Nepali,Deva,indic,,nep
nl,Dutch,Latn,germanic,nld,nld
nn,Norwegian Nynorsk,Latn,germanic,nno,nno
nov,Novial,Latn,constructed,nov,
nr,South Ndebele,Latn,bantu,,nbl
nso,Northern Sotho,Latn,bantu,,nso
ny,Nyanja,Latn,bantu,,nya_chechewa
oc,Occitan,Latn,romance,oci,lnc
orv,Old East Slavic,Cyrl,slavic,orv,
os,Ossetic,Cyrl,iranian,,oss
pa,Punjabi,Guru,indic,,pan
pam,Pampanga,Latn,austronesian,pam,pam
pcm,Nigerian Pidgin,Latn,creole,,pcm
pl,Polish,Latn,slavic,pol,pol
pms,Piedmontese,Latn,romance,pms,
ps,Pashto,Arab,iranian,,pbu
pt,Portuguese,Latn,romance,por,por_PT
qu,Quechua,Latn,american,,quz
rm,Romansh,Latn,romance,,roh
rn,Rundi,Latn,bantu,,run
ro,Romanian,Latn,romance,ron,ron
ru,Russian,Cyrl,slavic,rus,rus
rw,Kinyarwanda,Latn,bantu,,kin
sc,Sardinian,Latn,romance,,src
sco,Scots,Latn,germanic,,sco
se,Northern Sami,Latn,uralic,,sme
sg,Sango,Latn,creole,,sag
sk,Slovak,Latn,slavic,slk,slk
sl,Slovenian,Latn,slavic,slv,slv
sm,Samoan,Latn,austronesian,,smo
sn,Shona,Latn,bantu,,sna
so,Somali,Latn,cushitic,,som
sq,Albanian,Latn,albanian,sqi,als
sr,Serbian,Cyrl,slavic,srp,srp_cyrl
ss,Swati,Latn,bantu,,ssw
st,Southern Sotho,Latn,bantu,,sot
su,Sundanese,Latn,austronesian,,sun
sv,Swedish,Latn,germanic,swe,swe
sw,Swahili,Latn,bantu,swh,swh
ta,Tamil,Taml,dravidian,tam,tam
te,Telugu,Telu,dravidian,tel,
tet,Tetum,Latn,austronesian,,tet
tg,Tajik,Cyrl,iranian,,tgk
ti,Tigrinya,Ethi,semitic,,tir
tk,Turkmen,Latn,turkic,tuk,tuk_latn
tn,Tswana,Latn,bantu,,tsn
to,Tongan,Latn,austronesian,,ton
tpi,Tok Pisin,Latn,creole,,tpi
tr,Turkish,Latn,turkic,tur,tur
ts,Tsonga,Latn,bantu,,tso_MZ
tt,Tatar,Cyrl,turkic,tat,tat
tw,Twi,Latn,niger-congo,,aka_asante
ug,Uyghur,Arab,turkic,uig,uig_arab
uk,Ukrainian,Cyrl,slavic,ukr,ukr
ur,Urdu,Arab,indic,urd,urd
uz,Uzbek,Latn,turkic,uzb,uzn_latn
ve,Venda,Latn,bantu,,ven
vec,Venetian,Latn,romance,,vec
vi,Vietnamese,Latn,austroasiatic,vie,vie
wa,Walloon,Latn,romance,,wln
war,Waray,Latn,austronesian,war,war
wo,Wolof,Latn,niger-congo,,wol
xh,Xhosa,Latn,bantu,xho,xho
yi,Yiddish,Hebr,germanic,yid,ydd
yo,Yoruba,Latn,niger-congo,,yor
zu,Zulu,Latn,bantu,,zul
"""

LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {row.split(",")[0]: Language(*row.split(",")) for row in _TABLE.strip().splitlines()}
)
"""By tag. Languages written without spaces between words (Chinese, Japanese, Thai, Khmer, Lao, Burmese,
Tibetan) are not among them: their text is left alone."""

_SAME: Mapping[str, str] = MappingProxyType(
    {"no": "nb", "tl": "fil", "sh": "hr", "ary": "ar", "gug": "gn", "zlm": "ms"}
)


def families() -> dict[str, list[str]]:
    """Tags of the languages of each family."""
    found: dict[str, list[str]] = {}
    for language in LANGUAGES.values():
        found.setdefault(language.family, []).append(language.tag)
    return found


def known_language(tag: str) -> Language:
    """The language of a BCP 47 tag; regions and spellings share that of their language.

    >>> known_language("pt-BR").name, known_language("deu").tag, known_language("no").tag
    ('Portuguese', 'de', 'nb')

    Raises:
        UsageError: it is not a tag, or not of a language that is corrected.
    """
    try:
        base = language_tag(tag).language
    except DataError as error:
        raise UsageError(str(error)) from None
    base = _SAME.get(base, base)
    if base not in LANGUAGES:
        raise UsageError(f"language {tag!r}: is not one that is corrected; {suggest(base, LANGUAGES)}")
    return LANGUAGES[base]
