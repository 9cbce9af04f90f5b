"""`python -m integration`: what `make install-app`, `validate-app` and `uninstall-app` call."""

import sys

from integration.cli import main

sys.exit(main())
