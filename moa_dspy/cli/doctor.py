"""`moa-dspy show` and `doctor`: what a mixture is, and whether its models can be asked."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import FAILED, console, harmless, print_json, quietly, table

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

Check = tuple[str, str, str]  # what was looked at; ok, note (worth knowing) or fix (to do); what was found
_COLUMNS = ("agents", "key", "answers", "json", "stream", "name", "price", "window")
_WIDE = 90
_MARKS = {"ok": ("ok", "green"), "note": ("?", "yellow"), "fix": ("FIX", "red")}


def show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A saved mixture or a config.")],
    demos: Annotated[bool, typer.Option("--demos", help="Show the demos too, not just how many there are.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show a mixture: its agents, models, prompts, demos and weights.

    FILE is what moa-dspy compile or MoA.save wrote, or a config in YAML or JSON. Nobody is asked.

    [bold]Examples[/bold]
    moa-dspy show moa.json
    moa-dspy show tuned.json --demos
    moa-dspy show moa.yaml --json

    [bold]--json[/bold] prints path, config (what MoAConfig takes), agents (name, model, layer) and prompts (name,
    instructions, demos).

    [bold]Next[/bold]: ask it with --config FILE; in Python MoA.from_config(None, FILE).

    Exit status: 0 shown, 2 bad input.
    """
    from moa_dspy.config import MoAConfig
    from moa_dspy.moa import MoA

    config = MoAConfig.load(path)
    moa = MoA.from_config(options.DEFAULT_TASK if config.signature is None else None, path)
    prompts: list[dict[str, Any]] = [{"name": name, **prompt} for name, prompt in prompts_of(moa).items()]
    if as_json:
        layers = [number for number, panel in enumerate(moa.panels, start=1) for _ in panel.agents]
        agents = [
            {"name": agent.name, "model": agent.model, "layer": layer}
            for agent, layer in zip(moa.agents, [*layers, None], strict=True)
        ]
        print_json({"path": path, "config": config.model_dump(), "agents": agents, "prompts": prompts})
        return
    shown = [(f"# {path}", "bold"), (config.to_yaml(), "")]
    for prompt in prompts:
        count = f" ({len(prompt['demos'])} demos)" if prompt["demos"] else ""
        shown += [(f"{prompt['name']}{count}", "bold"), (f"{prompt['instructions']}\n", "")]
        for number, demo in enumerate(prompt["demos"] if demos else [], start=1):
            lines = "\n".join(f"  {name}: {value}" for name, value in demo.items())
            shown += [(f"demo {number}", "dim"), (f"{lines}\n", "")]
    here = console()
    for text, style in shown:
        here.print(harmless(text, style), soft_wrap=not here.is_terminal)


def prompts_of(moa: MoA) -> dict[str, dict[str, Any]]:
    """Predictor -> its instructions and demos; without those of an aggregator that nobody is."""
    is_asked = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
    parts: list[tuple[str, Any]] = moa.named_predictors()
    return {
        name: {"instructions": part.signature.instructions, "demos": [dict(demo) for demo in part.demos]}
        for name, part in parts
        if is_asked or not name.startswith("aggregator.")
    }


def doctor(
    who: options.Who,
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For all of it.")] = 60.0,
    as_json: options.Json = False,
) -> None:
    """Ask each model of a mixture, the aggregator too, and say what must be done before it works.

    Three short calls a model, all models at once: its key, its name, an answer, JSON, streaming, price and context
    window.

    [bold]Examples[/bold]
    moa-dspy doctor --config moa.yaml
    moa-dspy doctor -p openai/gpt-5.4-mini -p ollama_chat/llama3.2 -s voting

    [bold]--json[/bold] prints ok and models, each with its agents and its checks (name, state, text).

    Exit status: 0 nothing to do, 1 something must be done, 2 bad input.
    """
    moa = who.mixture()
    with quietly():
        found = _examine(moa, timeout)
    to_do: dict[str, dict[tuple[str, str], list[str]]] = {"fix": {}, "note": {}}
    rows, models = [], []
    here = console()
    shown = _COLUMNS if here.width >= _WIDE else _COLUMNS[1:5]  # what must be done stands below
    for model, agents, checks in found:
        marks = {name: harmless(*_MARKS[state]) for name, state, _ in checks}
        marks["agents"] = harmless(", ".join(agents))
        rows.append([model, *(marks.get(name, "-") for name in shown)])
        told = [dict(zip(("name", "state", "text"), check, strict=True)) for check in checks]
        models.append({"model": model, "agents": agents, "checks": told})
        for name, state, text in checks:
            if state != "ok":
                to_do[state].setdefault((name, text), []).append(model)
    if as_json:
        print_json({"ok": not to_do["fix"], "models": models})
    else:
        here.print(table(["model", *shown], rows))
        for heading, lines in zip(("To do", "Worth knowing"), to_do.values(), strict=True):
            here.print(harmless(f"\n{heading}" if lines else "", "bold"), end="\n" if lines else "")
            for (name, text), those in lines.items():
                here.print(harmless(f"- {', '.join(those)}: {name}: {text}"), soft_wrap=not here.is_terminal)
    if to_do["fix"]:
        raise typer.Exit(FAILED)


def _examine(moa: MoA, seconds: float) -> list[tuple[str, list[str], list[Check]]]:
    """Each model of a mixture with its agents and what was found; all are asked at once."""
    exams: dict[str, tuple[Any, list[str], list[Check]]] = {}
    for agent in moa.agents:
        if (lm := agent.lm) is not None:
            key = json.dumps([lm.model, lm.kwargs], default=repr)
            exam = exams.setdefault(key, (lm, [], []))
            exam[1].extend([agent.name] * (agent.name not in exam[1]))
    asking: dict[str, threading.Thread] = {}
    for key, (lm, _, checks) in exams.items():
        checks += _look_up(lm)  # before the clock starts: it imports LiteLLM
        if checks[0][1] == "ok":  # its key
            asking[key] = threading.Thread(target=_ask, args=(lm, seconds, checks), daemon=True)
    deadline = time.monotonic() + seconds
    for thread in asking.values():
        thread.start()
    for thread in asking.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    found = []
    for key, (lm, agents, checks) in exams.items():
        seen, base = [*checks], _base(lm)
        if key in asking and asking[key].is_alive():
            late = "stream" if any(name == "answers" for name, *_ in seen) else "answers"
            seen.append((late, "fix", f"Not done within {seconds:g} s. Is it loaded, or far away? See --timeout."))
        found.append((f"{lm.model} at {_cut(base, lm)}" if base else lm.model, agents, seen))
    return found


def _look_up(lm: Any) -> Iterator[Check]:
    """What is known of a model without asking it; its key first."""
    import litellm

    from moa_dspy.models import context_window, missing_key, prices_of

    variable, own = missing_key(lm), ("api_key", "api_base", "base_url", "headers", "extra_headers")
    if variable is None and getattr(lm, "engine", None) in ("auto", "litellm") and not any(map(lm.kwargs.get, own)):
        # What LiteLLM knows of the providers that DSPy leaves to it; of a cloud's credentials there are other ways.
        missing = litellm.validate_environment(lm.model)["missing_keys"]
        variable = next((name for name in missing if name.endswith("_API_KEY")), None)
    if variable is not None:
        yield "key", "fix", f"{variable} is not set: export it, or name another with api_key:."
    else:
        yield "key", "ok", "found, or none is needed"
    if lm.model.startswith(("simulated/", "router/")):
        return
    provider, _, name = lm.model.partition("/") if "/" in lm.model else ("openai", "", lm.model)
    known = [one.removeprefix(f"{provider}/") for one in litellm.models_by_provider.get(provider, ())]
    if name in known:
        yield "name", "ok", "known"
    elif not _base(lm):
        near = get_close_matches(name, known, n=1)
        meant = f" Did you mean {provider}/{near[0]}?" if near else ""
        yield "name", "note", f"LiteLLM's list of models has none of this name.{meant}"
    if (prices := prices_of(lm)) is not None:
        yield "price", "ok", f"${prices.input:g} and ${prices.output:g} per million tokens"
    else:
        yield "price", "note", "Unknown, so costs will be. State it: prices: {input: 0.15, output: 0.60}."
    if (window := context_window(lm.model)) is not None:
        yield "window", "ok", f"{window:,} tokens"
    else:
        yield "window", "note", "Unknown: long proposals are shortened only once the model refuses them."


def _ask(lm: Any, seconds: float, checks: list[Check]) -> None:
    """Ask a model for an answer, for JSON and for a stream."""
    import dspy

    with suppress(Exception):  # of a class of somebody's own that takes other options
        lm = lm.copy(cache=False, num_retries=0, timeout=seconds)
    with dspy.context(lm=lm):
        try:
            checks.append(_judge_answer(lm))
        except Exception as error:
            checks.append(("answers", "fix", _explain(error, lm)))
        if checks[-1][1] == "fix":
            return
        try:
            with dspy.context(adapter=dspy.JSONAdapter()):
                dspy.Predict("question -> answer: str, letters: int")(question="How many letters has the word ready?")
            checks.append(("json", "ok", "keeps to it"))
        except Exception as error:
            told = f"Does not keep to JSON ({type(error).__name__}): the chat format is used anyway."
            checks.append(("json", "note", told))
        listener = dspy.streaming.StreamListener("answer")
        program: Any = dspy.streamify(
            dspy.Predict("question -> answer"), stream_listeners=[listener], async_streaming=False
        )
        try:
            streams = any(isinstance(one, dspy.streaming.StreamResponse) for one in [*program(question="Say: ready")])
            checks.append(("stream", "ok" if streams else "note", "streams" if streams else "Comes in one piece."))
        except Exception as error:
            checks.append(("stream", "note", f"Cannot be streamed ({type(error).__name__}); plain calls work."))


def _judge_answer(lm: Any) -> Check:
    from moa_dspy.meter import metered

    with metered("doctor") as meter:
        [first, *_] = lm("Answer with one word: ready") or [None]
    text = first.get("text") if isinstance(first, dict) else first
    call, most = meter.calls()[-1], lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens")
    if not (text or "").strip():
        thought = f" after {call.reasoning_tokens} tokens of reasoning" if call.reasoning_tokens else ""
        room = f": max_tokens={most} leaves no room to write. Give it 8000 or more." if most else "."
        return "answers", "fix", f"An empty answer{thought}{room}"
    if call.finish_reason == "length":
        return "answers", "fix", f"Cut off: max_tokens={most} is too little for a reasoning model. Raise it."
    return "answers", "ok", f"in {call.seconds:.1f} s"


def _explain(error: Exception, lm: Any) -> str:
    """What an error means, and what to do."""
    import dspy

    told = _cut(str(error), lm)
    if isinstance(error, dspy.LMAuthError):
        return f"The key is refused: {told}"
    if isinstance(error, dspy.LMTimeoutError) or "timed out" in told:
        return f"No answer in time: {told}"
    if isinstance(error, dspy.LMRateLimitError):
        return f"It answers, and wants no more calls now: {told}"
    of_address = (dspy.LMTransportError, dspy.LMInvalidRequestError, dspy.LMUnsupportedModelError)
    if isinstance(error, of_address) and (wrong := _check_address(lm)) is not None:
        return wrong
    return told if isinstance(error, dspy.LMError) else f"{type(error).__name__}: {told}"


def _check_address(lm: Any) -> str | None:
    """What is wrong with the address of a server of one's own, as far as its list of models tells."""
    base, (provider, _, name) = _base(lm).rstrip("/"), lm.model.partition("/")
    if not base:
        return None
    # By itself DSPy asks in OpenAI's dialect, which all serve under /v1; LiteLLM asks Ollama in its own.
    is_ollama = provider.startswith("ollama") and getattr(lm, "engine", None) == "litellm"
    root = base.removesuffix("/v1")
    other = root if is_ollama or base != root else f"{root}/v1"
    for address in dict.fromkeys((base, other, root)):
        listed = _list_models(address, "/api/tags" if is_ollama else "/models", lm)
        if listed is None:
            continue
        shown = _cut(address, lm)
        if address != base:
            return f"The address is wrong: write api_base: {shown} ({'without' if address == root else 'with'} /v1)."
        if name not in listed:
            near = get_close_matches(name, listed, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            return f"{shown} has no model {name}. {meant}It has: {', '.join(listed[:8]) or 'none'}."
        return None
    return f"Nobody answers at {_cut(base, lm)}: is the server running, and is this its address?"


def _list_models(address: str, path: str, lm: Any) -> list[str] | None:
    key = lm.kwargs.get("api_key")
    request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=3) as reply:
            data = json.loads(reply.read(2**20))
        return [str(row.get("id") or row.get("name")) for row in data.get("data", data.get("models"))]
    except (OSError, ValueError, AttributeError, TypeError):  # no server, no JSON, or of another shape
        return None


def _base(lm: Any) -> str:
    return str(lm.kwargs.get("api_base") or lm.kwargs.get("base_url") or "")


def _cut(text: str, lm: Any) -> str:
    """The first line of a text, without secrets."""
    from moa_dspy.secrets import redact

    line = next(iter(redact(text, lm).strip().splitlines()), "")
    return line if len(line) <= 200 else f"{line[:200]} ..."
