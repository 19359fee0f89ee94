"""Requests in the shape of Azure AI Search (REST API 2023-11-01 and later), as far as they are served."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mainspring.serve.schema import Text

MOST_ANSWERS = 10
"""Answers that may be asked for."""
_OPTION = re.compile(r"(count|threshold)[-=](\d+(?:\.\d+)?)")


def _names(value: Any) -> Any:
    """Names between commas, or a list of them."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _tag(value: str) -> str:
    if len(value) > 125:
        raise ValueError(f"should have 125 characters at most, not {len(value)}")
    return value


Names = Annotated[list[Text], BeforeValidator(_names)]
"""A list, or one text with commas."""
Tag = Annotated[Text, AfterValidator(_tag)]
"""What stands before or after a highlight."""


class Request(BaseModel):
    """What requests share: unknown parameters are refused, null is the default."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class SearchRequest(Request):
    """Body of POST /indexes/NAME/docs/search."""

    search: Text = "*"
    """The query; `*` or nothing: every document."""
    query_type: Literal["simple", "semantic"] = Field("simple", alias="queryType")
    """`semantic` ranks by meaning."""
    semantic_configuration: Text | None = Field(None, alias="semanticConfiguration")
    """Taken with any name: there is one."""
    search_fields: Names = Field([], alias="searchFields")
    """Taken with `semantic`; title and content are searched together."""
    query_language: Text | None = Field(None, alias="queryLanguage")
    """Taken, and what the speller reads the query in; else languages show themselves."""
    captions: Text | None = None
    """`extractive`, `extractive|highlight-false`, or `none`."""
    answers: Text | None = None
    """`extractive|count-3` or `extractive|count=3` (10 at most), or `none`."""
    speller: Literal["none", "lexicon"] = "none"
    """`lexicon`: also answer with the query corrected, where it seems misspelled (`@search.didYouMean`)."""
    filter: Text | None = None
    """OData: comparisons of fields, `and`, `or`, `not`, `search.in`."""
    orderby: Names = []
    """Fields, each with `asc` or `desc`; `search.score()`."""
    select: Names = []
    """Fields to return (none: all)."""
    top: int = Field(50, ge=0, le=1000)
    skip: int = Field(0, ge=0, le=100_000)
    count: bool = False
    """Also return the number of documents that were found."""
    search_mode: Literal["any", "all"] = Field("any", alias="searchMode")
    """`all`: every word must occur."""
    highlight: Names = []
    """Fields to return with the query's words marked: title, content."""
    highlight_pre_tag: Tag = Field("<em>", alias="highlightPreTag")
    highlight_post_tag: Tag = Field("</em>", alias="highlightPostTag")
    minimum_coverage: float | None = Field(None, alias="minimumCoverage", ge=0, le=100)
    """Taken: coverage is always whole."""
    scoring_statistics: Literal["local", "global"] | None = Field(None, alias="scoringStatistics")
    """Taken: statistics are always global."""
    session_id: Text | None = Field(None, alias="sessionId")
    """Taken and not used."""
    debug: Literal["disabled"] = "disabled"
    semantic_error_handling: Literal["partial", "fail"] = Field("fail", alias="semanticErrorHandling")
    """`partial`: results by words where semantic ranking is not to be had; `fail`: an error."""
    semantic_max_wait: int | None = Field(None, alias="semanticMaxWaitInMilliseconds", ge=700)
    """Taken and not used."""

    @model_validator(mode="after")
    def _fits_together(self) -> SearchRequest:
        caption_settings(self.captions)
        answer_settings(self.answers)
        if self.query_type == "semantic" and self.orderby:
            raise ValueError("'orderby' is not supported when 'queryType' is set to 'semantic'")
        if self.query_type != "semantic":
            for name in ("captions", "answers"):
                if getattr(self, name) not in (None, "none"):
                    raise ValueError(f"'{name}' can only be used when 'queryType' is set to 'semantic'")
        return self


class SuggestRequest(Request):
    """Body of POST /indexes/NAME/docs/suggest."""

    search: Text
    """What was typed so far."""
    suggester_name: Text = Field("sg", alias="suggesterName")
    """Taken with any name: there is one."""
    top: int = Field(5, ge=1, le=100)
    select: Names = []
    filter: None = None
    fuzzy: Literal[False] = False
    orderby: Names = []
    search_fields: Names = Field([], alias="searchFields")
    highlight_pre_tag: Tag | None = Field(None, alias="highlightPreTag")
    highlight_post_tag: Tag | None = Field(None, alias="highlightPostTag")
    minimum_coverage: float | None = Field(None, alias="minimumCoverage", ge=0, le=100)


class AutocompleteRequest(SuggestRequest):
    """Body of POST /indexes/NAME/docs/autocomplete."""

    autocomplete_mode: Literal["oneTerm", "oneTermWithContext"] = Field("oneTerm", alias="autocompleteMode")


class Batch(Request):
    """Body of POST /indexes/NAME/docs/index."""

    value: list[dict[str, Any]] = Field(max_length=1000)
    """Documents, each with `@search.action`: upload, merge, mergeOrUpload or delete."""


def caption_settings(text: str | None) -> tuple[bool, bool]:
    """Whether captions are wanted, and whether with highlights.

    >>> caption_settings("extractive|highlight-false"), caption_settings(None)
    ((True, False), (False, False))

    Raises:
        ValueError: it says neither.
    """
    kind, _, option = (text or "none").partition("|")
    if kind == "none" and not option:
        return False, False
    if kind != "extractive" or option not in ("", "highlight-true", "highlight-false"):
        raise ValueError(
            f"captions = {text!r}: should be 'none', 'extractive' or 'extractive|highlight-false'"
        )
    return True, option != "highlight-false"


def answer_settings(text: str | None) -> tuple[int, float]:
    """Number of answers wanted, and how sure they must be.

    >>> answer_settings("extractive|count-3"), answer_settings("extractive|count=12,threshold-0.8")
    ((3, 0.0), (10, 0.8))

    Raises:
        ValueError: it says neither.
    """
    kind, _, options = (text or "none").partition("|")
    if kind == "none" and not options:
        return 0, 0.0
    found = [_OPTION.fullmatch(option.strip()) for option in options.split(",")] if options else []
    values = {match[1]: float(match[2]) for match in found if match}
    if kind != "extractive" or not all(found) or values.get("count", 1) < 1 or values.get("threshold", 0) > 1:
        raise ValueError(
            f"answers = {text!r}: should be 'none', 'extractive', 'extractive|count-3' (or count=3, from 1), "
            "'extractive|threshold-0.8' (0 to 1), or both with a comma between"
        )
    return min(int(values.get("count", 1)), MOST_ANSWERS), values.get("threshold", 0.0)
