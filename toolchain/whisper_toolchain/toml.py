"""Reading TOML on every supported Python: the standard library has it from 3.11 on."""

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from whisper_toolchain.errors import ToolchainError


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises ToolchainError with the file and the line that is wrong."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ToolchainError(f"{path}: not readable as TOML: {error}") from error
    return table
