"""A form for an event, made of its JSON schema; what a form cannot say is asked for as JSON.

The form asks; pydantic validates, and its errors are put at the fields.
"""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic.errors import PydanticUserError

from pm_celery.admin.actions import ReasonForm
from pm_celery.exceptions import Refused
from pm_celery.keys import LONGEST_KEY
from pm_celery.messages import MessageType
from pm_celery.operations import publishing

__all__ = ["EventForm"]

# Beyond this, objects in objects are asked for as JSON; so are types that hold themselves.
_DEEPEST = 3
_PREFIX = "payload"
_INPUT_TYPES = {"date": "date", "date-time": "text", "time": "time", "uuid": "text"}
_EXAMPLES = {
    "date-time": "2026-01-31T12:00:00Z",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "duration": "PT1H30M",
}
_SCALARS = ("string", "integer", "number", "boolean")

Path = tuple[str, ...]


class EventForm(ReasonForm):
    """The fields of an event's payload, its ids, and the reason."""

    event_id = forms.CharField(
        label=gettext_lazy("Event id"),
        required=False,
        max_length=LONGEST_KEY,
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("A fresh one, if left empty. A process handles one id once."),
    )
    correlation_id = forms.CharField(
        label=gettext_lazy("Correlation id"),
        required=False,
        max_length=LONGEST_KEY,
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("The event id, if left empty."),
    )

    def __init__(self, declared: MessageType, data: Any = None, *, as_json: bool = False) -> None:
        super().__init__(data)
        self.declared = declared
        self._paths: dict[str, Path] = {}
        self._kinds: dict[str, str] = {}
        schema = None if as_json else _schema_of(declared)
        if schema is None:
            self._add((), {}, label=_("Payload"), required=True)
        else:
            self._definitions = schema.get("$defs", {})
            self._add_object((), schema, depth=0)
        self.order_fields([*self._paths, "event_id", "correlation_id", "reason"])

    def _add_object(self, path: Path, schema: Any, depth: int) -> None:
        required = schema.get("required", ())
        for name, inner in schema.get("properties", {}).items():
            inner, nullable = self._resolved(inner)
            at = (*path, name)
            is_object = inner.get("type") == "object" and inner.get("properties")
            if is_object and not nullable and name in required and depth < _DEEPEST:
                self._add_object(at, inner, depth + 1)
            else:
                self._add(at, inner, label=".".join(at), required=name in required and not nullable)

    def _resolved(self, schema: Any) -> tuple[Any, bool]:
        """A schema without references, and whether it allows null."""
        outer = {key: schema[key] for key in ("default", "description") if key in schema}
        for _step in range(10):
            if "$ref" in schema:
                schema = self._definitions.get(schema["$ref"].rpartition("/")[2], {})
            elif len(schema.get("allOf", ())) == 1:
                schema = schema["allOf"][0]
            else:
                break
        branches = schema.get("anyOf", [])
        nullable = {"type": "null"} in branches
        branches = [branch for branch in branches if branch != {"type": "null"}]
        if len(branches) == 1:
            schema = self._resolved(branches[0])[0]
        elif {branch.get("type") for branch in branches} == {"number", "string"}:
            schema = {"type": "decimal"}
        return {**schema, **outer}, nullable

    def _add(self, path: Path, schema: Any, *, label: str, required: bool) -> None:
        name = "-".join((_PREFIX, *path))
        self._paths[name] = path
        kind, field = _field_of(schema, required, self._item_of(schema))
        self._kinds[name] = kind
        field.label, field.required = label, required and kind != "boolean"
        hints = [schema.get("description", "")]
        if schema.get("default") is not None:
            hints.append(_("%(value)s, if left empty.") % {"value": _written(schema["default"])})
        if kind == "lines":
            hints.append(_("One a line."))
        if kind == "json" and not isinstance(field, forms.ChoiceField):
            hints.append(_("JSON."))
        field.help_text = " ".join(filter(None, hints))
        self.fields[name] = field

    def _item_of(self, schema: Any) -> Any:
        return self._resolved(schema.get("items", {}))[0] if hasattr(self, "_definitions") else {}

    # -- what was filled in ---------------------------------------------------------------------

    @property
    def payload_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self._paths]

    @property
    def other_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in ("event_id", "correlation_id", "reason")]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        payload: Any = {}
        for name, path in self._paths.items():
            try:
                value = _value_of(self._kinds[name], cleaned.get(name))
            except (ValueError, RecursionError) as error:
                self.add_error(name, _("This is no JSON: %(error)s") % {"error": error})
                continue
            if not path:
                payload = value
            elif value is not None:
                inner = payload
                for step in path[:-1]:
                    inner = inner.setdefault(step, {})
                inner[path[-1]] = value
        for at, what in publishing.problems(self.declared.name, payload):
            self._put_at_its_field(at, what)
        self.payload = payload
        return cleaned

    def _put_at_its_field(self, at: tuple[str | int, ...], what: str) -> None:
        """An error is told at the field that is nearest to where pydantic found it."""
        names = {path: name for name, path in self._paths.items()}
        for length in range(len(at), -1, -1):
            name = names.get(tuple(map(str, at[:length])))
            if name is not None:
                rest = ".".join(map(str, at[length:]))
                if name not in self.errors:
                    self.add_error(name, f"{rest}: {what}" if rest else what)
                return
        if any(path[: len(at)] == at and name in self.errors for path, name in names.items()):
            return  # an object is missing because nothing of it was filled in
        where = ".".join(map(str, at))
        self.add_error(None, f"{where}: {what}" if where else what)

    def publish(self, by: str) -> publishing.Published | None:
        """Do it; None, with the errors in the form, where it is refused."""
        try:
            return publishing.publish_by_hand(
                self.declared.name,
                self.payload,
                event_id=self.cleaned_data["event_id"] or None,
                correlation_id=self.cleaned_data["correlation_id"] or None,
                by=by,
                reason=self.cleaned_data["reason"],
            )
        except Refused as refused:
            self.add_error(None, str(refused))
            return None


def _schema_of(declared: MessageType) -> dict[str, Any] | None:
    """The JSON schema of an event that is an object; None where there is none."""
    try:
        schema = declared.adapter.json_schema()
    except (PydanticUserError, RecursionError, TypeError, ValueError):
        return None
    if "$ref" in schema:
        schema = {**schema, **schema["$defs"].get(schema["$ref"].rpartition("/")[2], {})}
    return schema if schema.get("type") == "object" and "properties" in schema else None


def _field_of(schema: Any, required: bool, item: Any) -> tuple[str, forms.Field]:
    kind = schema.get("type")
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]]}
    if "enum" in schema:
        choices = [(json.dumps(value), str(value)) for value in schema["enum"]]
        blank = [] if required else [("", "---------")]
        return "json", forms.ChoiceField(choices=[*blank, *choices])
    if kind == "boolean":
        if required:
            return "boolean", forms.BooleanField()
        told = [("", "---------"), ("true", _("yes")), ("false", _("no"))]
        return "json", forms.ChoiceField(choices=told)
    if kind == "integer":
        return "integer", forms.CharField(widget=_input(inputmode="numeric"))
    if kind in ("number", "decimal"):
        return kind, forms.CharField(widget=_input(inputmode="decimal"))
    if kind == "string":
        form = schema.get("format", "")
        if form in _INPUT_TYPES or form in _EXAMPLES:
            attrs = {"type": _INPUT_TYPES.get(form, "text"), "placeholder": _EXAMPLES.get(form, "")}
            return "text", forms.CharField(widget=_input(**attrs))
        return "text", forms.CharField(widget=_input(), strip=False)
    if kind == "array" and item.get("type") in _SCALARS and "prefixItems" not in schema:
        lines = forms.CharField(widget=AdminTextareaWidget(attrs={"rows": 3}))
        return "lines" if item["type"] == "string" and "enum" not in item else "json_lines", lines
    return "json", forms.CharField(widget=AdminTextareaWidget(attrs={"rows": 6}))


def _input(**attrs: str) -> forms.TextInput:
    return AdminTextInputWidget(attrs=attrs)


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value_of(kind: str, given: Any) -> Any:
    """What was filled in, as JSON has it; None for nothing. Raises ``ValueError`` for no JSON, and
    ``RecursionError`` for what is nested too deeply."""
    if kind == "boolean":
        return bool(given)
    if given in (None, ""):
        return None
    match kind:
        case "json":
            return json.loads(given)
        case "integer" | "number":
            try:
                return json.loads(given)
            except ValueError:
                return given  # pydantic says what is wrong with it
        case "lines":
            return [line.strip() for line in given.splitlines() if line.strip()]
        case "json_lines":
            return [_scalar(line.strip()) for line in given.splitlines() if line.strip()]
        case _:
            return given


def _scalar(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line
