"""In what a saved mixture is another one than the program it is loaded into, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moa_dspy.saving.saved_format import SavedMixture, SavedSignature, SavedType

__all__ = ["differences"]


def differences(saved: SavedMixture, here: SavedMixture) -> Iterator[str]:
    """In what the file's mixture is another one than that of the program, in words."""
    yield from _apart("field", _fields(saved.signature), _fields(here.signature))
    yield from _unlike(_classes(saved.signature), _classes(here.signature))
    yield from _apart("proposer", {p.name: p.name for p in saved.proposers}, {p.name: p.name for p in here.proposers})
    programs = {proposer.name: proposer.program for proposer in here.proposers}
    for proposer in saved.proposers:
        if proposer.name in programs and bool(proposer.program) != bool(programs[proposer.name]):
            own = proposer.program or programs[proposer.name]
            where = "the file" if proposer.program else "this program"
            yield f"only in {where} does {proposer.name} run a program of its own ({own})"
    for name in ("layers", "use_specialized_prompts"):
        if getattr(saved, name) != getattr(here, name):
            yield f"{name} is {getattr(saved, name)} in the file and {getattr(here, name)} here"
    if saved.strategy.name != here.strategy.name:
        yield f"the strategy is {saved.strategy.name} in the file and {here.strategy.name} here"


def _apart(what: str, saved: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    only_saved = [text for name, text in saved.items() if name not in here]
    only_here = [text for name, text in here.items() if name not in saved]
    if only_saved:
        yield f"only the file has the {what}{'s' * (len(only_saved) > 1)} {', '.join(only_saved)}"
    if only_here:
        yield f"only this program has the {what}{'s' * (len(only_here) > 1)} {', '.join(only_here)}"
    yield from _unlike(saved, here)


def _unlike(saved: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for name, text in saved.items():
        if here.get(name, text) != text:
            yield f"the file has {text}, this program {here[name]}"


def _fields(saved: SavedSignature) -> dict[str, str]:
    """Each field's type, as text: what must be the same in two mixtures that share prompts."""
    return {
        **{field.name: f"input {field.name}: {field.type}" for field in saved.inputs},
        **{field.name: f"output {field.name}: {field.type}" for field in saved.outputs},
    }


def _classes(saved: SavedSignature) -> dict[str, str]:
    """The fields or members of each class that the types name, as text, where the file has them."""
    parts = {name: _parts(cls) for name, cls in saved.types.items()}
    return {name: f"{name}({', '.join(texts)})" for name, texts in parts.items() if texts is not None}


def _parts(cls: SavedType) -> list[str] | None:
    if cls.members is not None:
        return [f"{name}={value!r}" for name, value in cls.members.items()]
    if cls.root is not None:
        return [cls.root]
    return None if cls.fields is None else [f"{field.name}: {field.type}" for field in cls.fields]
