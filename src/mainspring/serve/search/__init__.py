"""search: HTTP in front of indexes, in the shape of Azure AI Search, and a page (extra: serve)."""

from mainspring.serve.search.app import Related, SearchLimits, Service, create_search_app
from mainspring.serve.search.server import run_search

__all__ = ["Related", "SearchLimits", "Service", "create_search_app", "run_search"]
