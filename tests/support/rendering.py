"""Read what a DSPy prompt asks for, and write an answer in the format it asks for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dspy.adapters.utils import serialize_for_json

Style = Literal["chat", "json", "xml"]

# The closing sentence of ChatAdapter, JSONAdapter and XMLAdapter prompts, and how each spells a field in it.
_REQUESTS: dict[Style, tuple[str, str]] = {
    "chat": ("Respond with the corresponding output fields, starting with the field ", r"`\[\[ ## (\w+) ## \]\]`"),
    "json": ("Respond with a JSON object in the following order of fields: ", r"`(\w+)`"),
    "xml": ("Respond with the corresponding output fields wrapped in XML tags ", r"`<(\w+)>`"),
}


@dataclass(frozen=True)
class Asked:
    """The format a prompt asks for, the output fields in order, and the inputs as text."""

    style: Style
    fields: tuple[str, ...]
    given: str

    @property
    def inputs(self) -> dict[str, str]:
        """The input fields by name, without the white space around them."""
        if self.style == "xml":
            pairs = re.findall(r"^<(\w+)>\n(.*?)\n</\1>$", self.given, re.DOTALL | re.MULTILINE)
        else:
            _, *parts = re.split(r"^\[\[ ## (\w+) ## \]\]\n", self.given, flags=re.MULTILINE)
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
        return {name: value.strip() for name, value in pairs}

    def render(self, values: Mapping[str, Any]) -> str:
        """Write those of the asked fields that `values` has; leave the others out, as a careless model would."""
        return render(self.style, {name: values[name] for name in self.fields if name in values})


def asked(message: str) -> Asked | None:
    """Read the closing request of a prompt's last user message; None when it is no DSPy prompt."""
    # The last one counts: proposals and demos further up may quote such a sentence.
    style = max(_REQUESTS, key=lambda style: message.rfind(_REQUESTS[style][0]))
    sentence, field = _REQUESTS[style]
    given, found, listed = message.rpartition(sentence)
    first = re.match(field, listed)
    if not found or not first:
        return None
    return Asked(style, (first.group(1), *re.findall(rf", then {field}", listed)), given.strip())


def render(style: Style, values: Mapping[str, Any]) -> str:
    """Write the values as ChatAdapter, JSONAdapter or XMLAdapter expects a model to."""
    if style == "json":
        return json.dumps({name: serialize_for_json(value) for name, value in values.items()}, ensure_ascii=False)
    if style == "xml":
        return "\n\n".join(f"<{name}>\n{_xml(as_text(value))}\n</{name}>" for name, value in values.items())
    sections = [f"[[ ## {name} ## ]]\n{as_text(value)}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def as_text(value: Any) -> str:
    """Write one value as text: a string as it is, a list, dict or model as JSON, the rest by str()."""
    plain = serialize_for_json(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict | list) else str(plain)


def words(text: str) -> list[str]:
    """Cut a text into the pieces a stream delivers; joined they are the text."""
    return re.findall(r"\s*\S+|\s+", text)


def _xml(text: str) -> str:
    # XML 1.0 has no way to write control characters, not even escaped.
    legal = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
    return legal.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
