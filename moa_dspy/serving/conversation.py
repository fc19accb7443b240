"""A conversation as a mixture's inputs, and its answer piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

import dspy

from moa_dspy.moa import MoA
from moa_dspy.results import MoAPrediction
from moa_dspy.values import is_needed, validated

__all__ = ["Chat", "answer_field", "inputs_for", "message_field", "stream"]

Message = Mapping[str, Any]


class Chat(dspy.Signature):
    """Answer the user's message. Follow the system prompt, where there is one."""

    system_prompt: str = dspy.InputField(default="")
    history: dspy.History = dspy.InputField(default=dspy.History(messages=[]))
    message: str = dspy.InputField()
    answer: str = dspy.OutputField()


def inputs_for(task: type[dspy.Signature], messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation, as OpenAI writes it, as the inputs of a task.

    The user's last message goes to the one input that must be given, the system prompt to `system_prompt`, earlier
    turns to the input that is a `dspy.History`, images, of all turns, to the one that is a `dspy.Image` or a list of
    them. What has no place of its own stands before the message, as text.

    Raises:
        ValueError: If the task takes more than a message, or the conversation has none, or more than text and images.
    """
    name, past, pictured = message_field(task), _field_of(task, dspy.History), _field_of(task, dspy.Image)
    images: list[dspy.Image] = []
    told = [(message.get("role"), _text(message, images)) for message in messages]
    system = "\n\n".join(text for role, text in told if role in _SYSTEM)
    sides = groupby((one for one in told if one[0] not in _SYSTEM), key=lambda one: one[0] == "assistant")
    turns = [(is_answer, "\n\n".join(text for _, text in side)) for is_answer, side in sides]
    if not turns or turns[-1][0]:
        raise ValueError("The conversation does not end with a message of the user, so there is nothing to answer.")
    *earlier, (_, message) = turns
    inputs, before = dict[str, Any](), list[str]()
    if images:
        if pictured is None:
            raise ValueError("The mixture's signature has no input for images, a dspy.Image or a list of them.")
        takes_all = task.input_fields[pictured].annotation == list[dspy.Image]
        if len(images) > 1 and not takes_all:
            raise ValueError(f"The mixture takes one image, {pictured}, and the conversation holds {len(images)}.")
        inputs[pictured] = images if takes_all else images[0]
    if "system_prompt" in task.input_fields and system:
        inputs["system_prompt"] = system
    elif system:
        before.append(system)
    if past is not None:
        asked = [text for is_answer, text in earlier if not is_answer]
        answers = [text for is_answer, text in earlier if is_answer]
        asked = ["", *asked] if earlier and earlier[0][0] else asked  # it begins with an answer
        pairs = zip(asked, answers, strict=True)
        inputs[past] = dspy.History(messages=[{name: said, answer_field(task): answer} for said, answer in pairs])
    else:
        before += [f"{'Assistant' if is_answer else 'User'}: {text}" for is_answer, text in earlier]
    text = "\n\n".join([*before, f"User: {message}" if before else message])
    return {**inputs, name: validated(text, task.input_fields[name].annotation)}


def message_field(task: type[dspy.Signature]) -> str:
    """The one input that must be given; ValueError if it is not one."""
    others = {"system_prompt", *(_field_of(task, kind) for kind in (dspy.History, dspy.Image))}
    names = [name for name, field in task.input_fields.items() if name not in others and is_needed(field)]
    if len(names) != 1:
        raise ValueError(
            f"A message is one input, and the mixture's signature needs {', '.join(names) or 'none'}. Serve a config "
            "whose signature needs one, or none: then it answers a conversation."
        )
    return names[0]


def answer_field(task: type[dspy.Signature]) -> str:
    """The output that is the answer: the one of this name, else the last."""
    return "answer" if "answer" in task.output_fields else list(task.output_fields)[-1]


async def stream(moa: MoA, inputs: Mapping[str, Any]) -> AsyncGenerator[str | MoAPrediction, None]:
    """The answer's text in pieces as it is written, then the prediction; of an answer that is no text, that alone."""
    name = answer_field(moa.signature)
    if moa.signature.output_fields[name].annotation is not str:
        yield await moa.acall(**inputs)
        return
    run: Any = dspy.streamify(moa, stream_listeners=[dspy.streaming.StreamListener(name)], is_async_program=True)
    items: asyncio.Queue[Any] = asyncio.Queue()

    async def work() -> None:
        try:
            async for item in run(**inputs):
                items.put_nowait(item)
        finally:
            items.put_nowait(None)

    # In a task of its own: DSPy's stream must end in the task that began it, and servers go from one to another.
    working = asyncio.create_task(work())
    try:
        while (item := await items.get()) is not None:
            if isinstance(item, MoAPrediction):
                yield item
            elif isinstance(item, dspy.streaming.StreamResponse) and item.chunk:
                yield item.chunk
        await working
    finally:
        working.cancel()  # who does not read on has what is under way stopped


_SYSTEM = ("system", "developer")


def _field_of(task: type[dspy.Signature], kind: type) -> str | None:
    """The input of this type, or of a list of it, or of it or None."""
    fields = task.input_fields.items()
    return next((name for name, field in fields if kind in (field.annotation, *get_args(field.annotation))), None)


def _text(message: Message, images: list[dspy.Image]) -> str:
    """A message as text; its images are added to the others, and the text says where they stood."""
    content = message.get("content") or ""
    texts = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part.get("type") == "text":
            texts.append(part["text"])
        elif part.get("type") == "image_url":
            source: Any = part["image_url"]
            url = source if isinstance(source, str) else source["url"]
            if not url.startswith(("data:image/", "https://", "http://")):
                raise ValueError(f"An image is a data:image/ or an https:// address, and this one begins {url[:12]!r}.")
            images.append(dspy.Image(url))
            texts.append(f"[Image {len(images)}]")
        else:
            raise ValueError(f"The mixture reads text and images, and a message holds {part.get('type')}.")
    if message.get("role") == "tool":
        return f"[The tool gave, for call {message.get('tool_call_id')}]\n" + "\n\n".join(texts)
    calls = [(call["id"], call["function"]) for call in message.get("tool_calls") or ()]
    texts += [f"[Call {id} of the tool {function['name']}: {function['arguments']}]" for id, function in calls]
    return "\n\n".join(texts)
