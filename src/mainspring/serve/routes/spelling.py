"""POST /v1/spell: correct the spelling of a text."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from mainspring.errors import UsageError
from mainspring.serve.errors import ApiError
from mainspring.serve.service import Service
from mainspring.serve.spelling import Spelling, SpellRequest, answer


def router(service: Service, spelling: Spelling) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/spell")
    async def spell(body: SpellRequest, request: Request) -> dict[str, Any]:
        """The corrected text, and of each word that is in doubt its place and candidates."""

        def work() -> dict[str, Any]:
            speller = spelling.speller()
            return answer(speller.correct(body.text, language=body.language, threshold=body.threshold))

        try:
            return await service.within(request, lambda: asyncio.to_thread(work))
        except UsageError as error:
            raise ApiError(400, str(error), param="language") from None

    return routes
