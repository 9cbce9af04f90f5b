"""`python -m whisper_toolchain` is the command `whisper-toolchain`."""

import sys

from whisper_toolchain.cli import main

sys.exit(main())
