"""serve: HTTP in front of an engine (extra: serve)."""

from mainspring.errors import require

for _module in ("fastapi", "uvicorn", "prometheus_client"):
    require(_module, "serve")

from mainspring.serve.app import create_app  # noqa: E402
from mainspring.serve.limits import Limits  # noqa: E402
from mainspring.serve.server import run  # noqa: E402

__all__ = ["Limits", "create_app", "run"]
