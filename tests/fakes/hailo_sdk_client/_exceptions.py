"""Exceptions of the fake: names seen in public tracebacks of the vendor's package.

They derive from Exception alone and live in a private module: users know them from tracebacks only, so a driver has to
catch Exception (FACTS section 2).
"""


class InvalidStateException(Exception):
    """A method was called too early or too late. The decorator behind it is in public tracebacks; the text is not."""


class UnsupportedHwArchException(Exception):
    """The architecture is not one that this version compiles for. Name and text documented only."""


class HailoArchiveException(Exception):
    """A HAR that cannot be read. Name and text documented only."""


class MisspellNodeError(Exception):
    """A start or end node that the model does not have. Public tracebacks."""


class UnsupportedModelError(Exception):
    """A model that cannot be translated as a whole. Public tracebacks."""


class ParsingWithRecommendationException(Exception):
    """Nodes that cannot be translated, one line each. Public tracebacks."""


class BackendScriptParserException(Exception):
    """A model script with a line that is no command. Public tracebacks."""


class AllocatorScriptParserException(Exception):
    """A command of a model script that does not fit the model. Public tracebacks."""


class BadInputsShape(Exception):
    """Data of another shape than the input layer's. Public tracebacks."""


class AccelerasValueError(Exception):
    """Data or a configuration that the optimisation cannot work with. Public tracebacks."""


class BackendRuntimeException(Exception):
    """A call that the backend refuses. Public tracebacks."""


class BackendAllocatorException(Exception):
    """The compiler found no way to place the network on the chip. Public tracebacks."""


class AccelerasUnknownError(Exception):
    """Raised by a configured fault. Stands for the exceptions that nobody has documented."""
