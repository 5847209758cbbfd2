"""Checks every use of a vendor's API in our source against what its bindings offer.

The source is read, not run: which names are the vendor's follows from annotations (`trt.Builder`),
from what the vendor's calls return, and from assignments. In our code the vendor's module is always
called `trt`. A name that only the vendor has, on an object whose type does not follow, is a problem
too: so nothing goes unchecked.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.engines.contract.bindings import Api, Member, Signature

MODULE = "trt"


@dataclass(frozen=True)
class Problem:
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Kind:
    """Of an expression. what: module, class, instance or method; name: of the vendor's class."""

    what: str
    name: str = ""
    method: str = ""


@dataclass(frozen=True, order=True)
class Use:
    """A name that is right. column: where it ends."""

    file: str
    line: int
    column: int
    name: str


@dataclass
class Report:
    problems: list[Problem] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)


def sources(root: Path) -> list[Path]:
    """Every module that touches the vendor's API."""
    return [path for path in sorted(root.rglob("*.py")) if f"{MODULE}." in path.read_text()]


def check(files: Mapping[str, str], api: Api) -> Report:
    """Check sources, by file name."""
    trees = {name: ast.parse(text) for name, text in files.items()}
    declared = _declared(trees.values(), api)
    report = Report()
    for name, tree in trees.items():
        _Checker(name, api, declared, report).block(tree.body, {})
    return report


def _declared(trees: Iterable[ast.AST], api: Api) -> dict[str, Kind]:
    """Our own attributes and functions annotated with the vendor's types, by name."""
    declared: dict[str, Kind] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                kind = _annotated(node.returns, api)
                name = node.name
            elif isinstance(node, ast.AnnAssign):
                kind = _annotated(node.annotation, api)
                name = node.target.attr if isinstance(node.target, ast.Attribute) else ""
                name = node.target.id if isinstance(node.target, ast.Name) else name
            else:
                continue
            if kind is not None:
                declared[name] = kind
    return declared


def _annotated(annotation: ast.expr, api: Api) -> Kind | None:
    """The kind that an annotation such as `trt.Builder | None` names."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(f"{MODULE}."):
            name = ast.unparse(node).rpartition(".")[2]
            return Kind("instance", name) if name in api.members else None
    return None


class _Checker:
    def __init__(self, file: str, api: Api, declared: Mapping[str, Kind], report: Report) -> None:
        self._file = file
        self._api = api
        self._declared = declared
        self._report = report
        self._only_vendors = {
            name
            for members in api.members.values()
            for name in members
            if not name.startswith("_") and ("_" in name or not name.islower())
        }

    def block(self, statements: Sequence[ast.stmt], scope: dict[str, Kind | None]) -> None:
        for statement in statements:
            self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: dict[str, Kind | None]) -> None:
        match node:
            case ast.FunctionDef():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.Assign():
                kind = self._infer(node.value, scope)
                for target in node.targets:
                    self._assign(target, kind, scope)
            case ast.AnnAssign():
                self._annotation(node.annotation)
                kind = self._infer(node.value, scope) if node.value else None
                self._assign(node.target, _annotated(node.annotation, self._api) or kind, scope)
            case ast.Import(names=names):
                for alias in names:
                    if alias.asname == MODULE:
                        scope[MODULE] = Kind("module")
            case _:
                self._children(node, scope)

    def _children(self, node: ast.AST, scope: dict[str, Kind | None]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child, scope)
            elif isinstance(child, ast.expr):
                self._infer(child, scope)
            else:
                self._children(child, scope)

    def _function(self, node: ast.FunctionDef, scope: dict[str, Kind | None]) -> None:
        inner = dict(scope)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None:
                self._annotation(argument.annotation)
            kind = _annotated(argument.annotation, self._api) if argument.annotation else None
            inner[argument.arg] = Kind("module") if argument.arg == MODULE else kind
        if node.returns is not None:
            self._annotation(node.returns)
        self.block(node.body, inner)

    def _class(self, node: ast.ClassDef, scope: dict[str, Kind | None]) -> None:
        for base in node.bases:
            kind = self._infer(base, scope)
            if kind is not None and kind.what == "class":
                self._overrides(node, kind.name)
        self.block(node.body, dict(scope))

    def _overrides(self, node: ast.ClassDef, base: str) -> None:
        """The vendor calls these: name and parameters must be the base's."""
        for method in node.body:
            if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
                continue
            member = self._member(base, method.name, method)
            if member is None:
                continue
            ours = [argument.arg for argument in method.args.args[1:]]
            theirs = [[p.name for p in s.parameters] for s in member.signatures]
            if theirs and ours not in theirs:
                self._problem(method, f"{base}.{method.name} takes {theirs}, ours takes {ours}")

    def _annotation(self, annotation: ast.expr) -> None:
        for node in ast.walk(annotation):
            if isinstance(node, ast.Attribute):
                self._infer(node, {MODULE: Kind("module")})

    def _assign(self, target: ast.expr, kind: Kind | None, scope: dict[str, Kind | None]) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = kind
        elif isinstance(target, ast.Attribute):
            self._infer(target, scope)
        else:
            self._children(target, scope)

    def _infer(self, node: ast.expr, scope: dict[str, Kind | None]) -> Kind | None:
        match node:
            case ast.Name(id=name):
                return scope.get(name)
            case ast.Attribute():
                return self._attribute(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Lambda(body=body):
                return self._infer(body, scope)
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() | ast.DictComp():
                self._children(node, dict(scope))
                return None
            case _:
                self._children(node, scope)
                return None

    def _attribute(self, node: ast.Attribute, scope: dict[str, Kind | None]) -> Kind | None:
        owner = self._infer(node.value, scope)
        if owner is None:
            if node.attr == MODULE:
                return Kind("module")
            if node.attr in self._declared:
                return self._declared[node.attr]
            if node.attr in self._only_vendors:
                self._problem(node, f"cannot tell what `{ast.unparse(node.value)}` is: annotate it")
            return None
        if owner.what == "module":
            return self._of_module(node)
        member = self._member(owner.name, node.attr, node)
        if member is None:
            return None
        match member.kind:
            case "method":
                return Kind("method", owner.name, node.attr)
            case "class":
                return Kind("class", node.attr)
            case _:
                return self._instance(member.returns)

    def _of_module(self, node: ast.Attribute) -> Kind | None:
        if node.attr.startswith("__"):
            return None
        if node.attr not in self._api.members:
            self._problem(node, f"{self._api.module} has no {node.attr}")
            return None
        self._use(node, node.attr)
        return Kind("class", node.attr)

    def _member(self, owner: str, name: str, node: ast.AST) -> Member | None:
        if name.startswith("__"):
            return None
        members = self._api.members[owner]
        if name not in members:
            self._problem(node, f"{self._api.module}.{owner} has no {name}")
            return None
        self._use(node, name)
        return members[name]

    def _instance(self, name: str) -> Kind | None:
        name = name.removesuffix(" | None")
        return Kind("instance", name) if name in self._api.members else None

    def _call(self, node: ast.Call, scope: dict[str, Kind | None]) -> Kind | None:
        function = self._infer(node.func, scope)
        for argument in node.args:
            self._infer(argument, scope)
        for keyword in node.keywords:
            self._infer(keyword.value, scope)
        if function is None:
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            return self._declared.get(called)
        match function.what:
            case "class":
                constructor = self._api.members[function.name].get("__init__")
                self._arguments(node, function.name, constructor.signatures if constructor else [])
                return Kind("instance", function.name)
            case "method":
                member = self._api.members[function.name][function.method]
                name = f"{function.name}.{function.method}"
                self._arguments(node, name, member.signatures)
                return self._instance(member.signatures[0].returns) if member.signatures else None
            case _:
                return function

    def _arguments(self, node: ast.Call, name: str, signatures: Sequence[Signature]) -> None:
        signatures = [signature for signature in signatures if not signature.variadic]
        if signatures and not any(_accepts(signature, node) for signature in signatures):
            known = " or ".join(
                f"({', '.join(parameter.name for parameter in signature.parameters)})"
                for signature in signatures
            )
            self._problem(node, f"{name} takes {known}, not {ast.unparse(node)}")

    def _use(self, node: ast.AST, name: str) -> None:
        if isinstance(node, ast.Attribute):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            end = (node.end_lineno, node.end_col_offset)
        else:
            assert isinstance(node, ast.FunctionDef)
            end = (node.lineno, node.col_offset + len(f"def {name}"))
        self._report.uses.append(Use(self._file, *end, name))

    def _problem(self, node: ast.AST, message: str) -> None:
        self._report.problems.append(Problem(f"{self._file}:{node.lineno}", message))  # type: ignore[attr-defined]


def _accepts(signature: Signature, call: ast.Call) -> bool:
    names = [parameter.name for parameter in signature.parameters]
    positional = names[: len(call.args)]
    named = [keyword.arg for keyword in call.keywords]
    given = {*positional, *named}
    required = {p.name for p in signature.parameters if not p.optional}
    return (
        len(call.args) <= len(names)
        and set(named) <= set(names)
        and not set(positional) & set(named)
        and required <= given
    )
