"""`python -m whisper_runtime` is the command `whisper-runtime`."""

import sys

from whisper_runtime.cli import main

sys.exit(main())
