"""`python -m mainspring`: the same as the `mainspring` command."""

import sys

from mainspring.cli.main import main

sys.exit(main())
