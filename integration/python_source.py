"""One Python file that is edited by its syntax tree: found nodes change, every other byte stays as it is."""

import ast
from collections.abc import Callable, Iterator
from typing import TypeVar

from integration.errors import UnknownLayoutError

Node = TypeVar("Node", bound=ast.AST)


class PythonSource:
    """A file's bytes, its tree, and the edits collected so far.

    Args:
        name: the file's path within the app, for messages.
        data: its content.

    Raises:
        UnknownLayoutError: the file is no Python that this interpreter can parse.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data
        self._edits: list[tuple[int, int, bytes]] = []
        self.tree = _parse(name, data)
        # The parser counts lines as bytes do: at \n, \r and \r\n, and at no other sign.
        self._lines = [0]
        for line in data.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._newline = b"\r\n" if b"\r\n" in data else b"\n"

    def one(self, kind: type[Node], within: ast.AST, fits: Callable[[Node], bool], what: str) -> Node:
        """The only node of a kind that fits, anywhere within another one.

        Raises:
            UnknownLayoutError: there is none, or there are several; `what` says what was expected.
        """
        found = [node for node in ast.walk(within) if isinstance(node, kind) and fits(node)]
        if len(found) != 1:
            raise self.unknown(f"{what} ({len(found)} found)")
        return found[0]

    def class_named(self, name: str) -> ast.ClassDef:
        """A class of the module. Raises UnknownLayoutError."""
        return self.one(ast.ClassDef, self.tree, lambda node: node.name == name, f"one class {name}")

    def function(self, name: str, within: ast.AST | None = None) -> ast.FunctionDef:
        """A function of the module, or a method of a class. Raises UnknownLayoutError."""
        scope = within or self.tree
        where = f"{within.name}." if isinstance(within, ast.ClassDef) else ""
        return self.one(ast.FunctionDef, scope, lambda node: node.name == name, f"one function {where}{name}")

    def assignment(self, target: str, within: ast.AST, where: str = "") -> ast.Assign:
        """The only statement that assigns to a target, such as `self.variant`. Raises UnknownLayoutError."""
        found = list(assignments(target, within))
        if len(found) != 1:
            raise self.unknown(f"one assignment to {target}{where and f' in {where}'} ({len(found)} found)")
        return found[0]

    def unknown(self, expected: str) -> UnknownLayoutError:
        """The error for a file that is not as expected."""
        return UnknownLayoutError(
            f"{self.name}: expected {expected}: this revision of the app is not known here, so nothing was changed"
        )

    def before(self, node: ast.expr, text: str) -> None:
        """Put text right in front of an expression."""
        start = self._start(node)
        self._edits.append((start, start, self._encoded(text)))

    def after(self, node: ast.expr | ast.keyword, text: str) -> None:
        """Put text right behind an expression."""
        end = self._end(node)
        self._edits.append((end, end, self._encoded(text)))

    def replace(self, node: ast.expr, text: str) -> None:
        """Put text in the place of an expression."""
        self._edits.append((self._start(node), self._end(node), self._encoded(text)))

    def lines_before(self, statement: ast.stmt, lines: list[str]) -> None:
        """Put lines in front of a statement, indented as it is."""
        self._insert_lines(self._lines[statement.lineno - 1], statement, lines)

    def lines_after(self, statement: ast.stmt, lines: list[str]) -> None:
        """Put lines behind a statement, indented as it is."""
        end = self._lines[(statement.end_lineno or statement.lineno)]
        self._insert_lines(end, statement, lines)

    def text(self, node: ast.expr) -> str:
        """An expression as it is written."""
        return self._data[self._start(node) : self._end(node)].decode()

    def edited(self) -> bytes:
        """The file with all edits.

        Raises:
            UnknownLayoutError: two edits meet, or the result is no Python.
        """
        parts, position = [], 0
        for start, end, text in sorted(self._edits, key=lambda edit: edit[:2]):
            if start < position:
                raise self.unknown("symbols that do not lie within each other")
            parts += [self._data[position:start], text]
            position = end
        result = b"".join([*parts, self._data[position:]])
        _parse(self.name, result)
        return result

    def _insert_lines(self, position: int, statement: ast.stmt, lines: list[str]) -> None:
        line_start = self._lines[statement.lineno - 1]
        indent = self._data[line_start : self._start(statement)]
        if indent.strip():
            raise self.unknown(f"a statement on a line of its own in line {statement.lineno}")
        text = b"".join((indent + line.encode() if line else b"") + self._newline for line in lines)
        if position and not self._data[:position].endswith((b"\n", b"\r")):
            text = self._newline + text.removesuffix(self._newline)  # behind a last line that does not end
        self._edits.append((position, position, text))

    def _encoded(self, text: str) -> bytes:
        return text.encode().replace(b"\n", self._newline)

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.keyword) -> int:
        if node.end_lineno is None or node.end_col_offset is None:
            raise self.unknown(f"an end of the expression in line {node.lineno}")
        return self._lines[node.end_lineno - 1] + node.end_col_offset


def assignments(target: str, within: ast.AST) -> Iterator[ast.Assign]:
    """The statements that assign one value to a target, such as `self.variant`, in no particular order."""
    for node in ast.walk(within):
        if isinstance(node, ast.Assign) and [ast.unparse(item) for item in node.targets] == [target]:
            yield node


def is_call(node: ast.AST, function: str) -> bool:
    """Whether a node calls a function by this name, such as `parser.add_argument`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == function


def _parse(name: str, data: bytes) -> ast.Module:
    try:
        return ast.parse(data)
    except (SyntaxError, ValueError) as error:
        raise UnknownLayoutError(f"{name}: not Python that can be parsed ({error}): nothing was changed") from error
