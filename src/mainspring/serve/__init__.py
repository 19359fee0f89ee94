"""serve: HTTP in front of engines (extra: serve)."""

from mainspring.errors import require

for _module in ("fastapi", "uvicorn", "prometheus_client", "jinja2"):
    require(_module, "serve")

from mainspring.serve.app import create_app  # noqa: E402
from mainspring.serve.limits import Limits  # noqa: E402
from mainspring.serve.loading import serve_engine  # noqa: E402
from mainspring.serve.models import Model  # noqa: E402
from mainspring.serve.server import run  # noqa: E402

__all__ = ["Limits", "Model", "create_app", "run", "serve_engine"]
