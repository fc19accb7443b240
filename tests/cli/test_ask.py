import json
from pathlib import Path

import pytest
from support.command import CAPITAL, lines, moa_dspy, printed, say, words, write, write_config
from support.openai_server import OpenAIServer


def test_the_answer_comes_first_then_who_said_it_and_what_it_cost() -> None:
    result = moa_dspy("ask", CAPITAL)
    shown = lines(result.stdout)
    assert result.exit_code == 0 and shown[1] == "│ Edinburgh │"
    assert shown[3].startswith("synthesis of 4 proposals, agreement 100%, ")
    assert shown[5:10] == [
        "proposer proposal agrees",
        *(f"{name} Edinburgh yes" for name in ("alice", "bob", "carol", "dave")),
    ]
    assert shown[11] == "agent model calls tokens in out cost seconds"
    assert [line.split()[:3] for line in shown[12:17]] == [
        *([name, f"simulated/{name}", "1"] for name in ("alice", "bob", "carol", "dave")),
        ["aggregator", "simulated/judge", "1"],
    ]
    assert shown[17].startswith("all 5 ")


def test_on_60_columns_the_models_are_left_out() -> None:
    shown = moa_dspy("ask", CAPITAL, columns=60).stdout
    assert max(map(len, shown.splitlines())) <= 60
    assert "agent calls tokens in out cost seconds" in lines(shown) and "simulated/" not in shown


def test_simulated_models_are_called_so() -> None:
    assert "Simulated models answer" in moa_dspy("ask", CAPITAL).stderr
    assert moa_dspy("ask", CAPITAL, "-p", "simulated/alice", "-s", "voting").stderr == ""


def test_those_who_agree_stand_together_and_the_answers_own_are_marked() -> None:
    with OpenAIServer(say(a="420", b="4200", c="420")) as server:
        config = write_config(server, "a", "b", "c", aggregation_strategy="voting")
        shown = lines(moa_dspy("ask", "q", "-c", config).stdout)
    assert shown[6:9] == ["a 420 yes", "c 420 yes", "b 4200"]


def test_json_is_all_there_is_on_stdout() -> None:
    plain = printed("ask", CAPITAL, "--strategy", "voting")
    assert plain["outputs"] == {"answer": "Edinburgh"}
    assert [proposal["agent"] for proposal in plain["metadata"]["all_proposals"]] == ["alice", "bob", "carol", "dave"]
    assert (plain["metadata"]["strategy"], plain["metadata"]["usage"]["calls"]) == ("voting", 4)


def test_a_question_is_read_as_the_signature_says_also_from_stdin() -> None:
    Path("task_of_ask.py").write_text(
        "import dspy\nclass Task(dspy.Signature):\n"
        "    names: list[str] = dspy.InputField()\n    answer: bool = dspy.OutputField()\n"
    )
    result = moa_dspy("ask", "-", "--signature", "task_of_ask:Task", "--json", stdin='["a"]\n')
    assert isinstance(json.loads(result.stdout)["outputs"]["answer"], bool)


def test_a_config_with_its_signature_is_enough() -> None:
    models = {"proposer_models": ["simulated/alice"], "aggregation_strategy": "voting"}
    write("moa.json", {"signature": "question -> answer: bool", **models})
    assert isinstance(printed("ask", "Is it?", "-c", "moa.json")["outputs"]["answer"], bool)
    assert printed("ask", CAPITAL, "-c", "moa.json", "--signature", "q -> a")["outputs"] == {"a": "Edinburgh"}


def test_a_proposer_that_failed_is_shown_with_its_cause_and_no_key() -> None:
    with OpenAIServer(say(a="yes", judge="yes")) as server:
        result = moa_dspy("ask", "q", "-c", write_config(server, "a", "b", "judge"), columns=120)
    shown = lines(result.stdout)
    [failed] = [line for line in shown if line.startswith("b ") and line.endswith("failed")]
    assert result.exit_code == 0 and "LMAuthError: " in failed and "sk-abc" not in result.output
    assert shown[-1] == "Degraded: 1 of 2 proposals did not come."


def test_no_answer_is_status_1_with_what_was_paid_for() -> None:
    with OpenAIServer(say(a="yes")) as server:
        config = write_config(server, "a", "b", "judge", limits={"min_proposals": 2})
        shown, plain = moa_dspy("ask", "q", "-c", config, columns=120), printed("ask", "q", "-c", config, status=1)
    assert shown.exit_code == 1 and shown.stderr.startswith("Error: 1 proposals came back, and at least 2 are needed.")
    assert "a yes" in lines(shown.stdout)
    assert (plain["outputs"], plain["error"]["type"]) == (None, "TooFewProposals")
    assert plain["metadata"]["all_proposals"][0]["outputs"] == {"answer": "yes"}


def test_what_models_write_has_no_effect_on_the_terminal() -> None:
    evil = "\x1b[2Jgone [red]x[/red] \u202etxt"
    with OpenAIServer(say(a=evil, **{"b[bold]": evil})) as server:
        config = write_config(server, "a", "b[bold]", aggregation_strategy="voting")
        shown = moa_dspy("ask", "q", "-c", config, columns=120).stdout
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "�[2Jgone [red]x[/red] �txt" in shown and "openai/b[bold]" in shown


def test_options_replace_parts_of_a_config() -> None:
    write("moa.yaml", "proposer_models: [simulated/bob]\naggregator_model: simulated/judge")
    metadata = printed("ask", CAPITAL, "-c", "moa.yaml", "-p", "simulated/alice", "-s", "selection")["metadata"]
    assert (metadata["strategy"], [one["agent"] for one in metadata["all_proposals"]]) == ("selection", ["alice"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--strategy", "nope"],
            "there is no strategy 'nope'. Allowed: synthesis, selection, voting, fusion, revision.",
        ),
        (["--strategy", "voting", "--strategy", "fusion"], "--strategy stands here several times"),
        (["--preset", "nope"], "There is no preset 'nope'. Allowed: balanced, "),
        (["--preset", "budget", "--config", "moa.yaml"], "--config and --preset both say who answers."),
        (["--config", "none.yaml"], "There is no file none.yaml"),
        (["--config", "bad.yaml"], "bad.yaml, line 2: no valid YAML"),
        (["--aggregator", "openai/gpt-5"], "no proposers. Give --proposer MODEL"),
        (
            ["--proposer", "openai/gpt-5"],
            "The strategy synthesis needs a model that judges, and there is none: give --agg",
        ),
        (["--proposer", "gemini/any", "-s", "voting"], "GEMINI_API_KEY"),
        (["--preset", "budget"], "_API_KEY"),
        (["--signature", "question"], "'question' cannot be read"),
        (["--signature", "question ->"], "The signature 'question ->' "),
        (["--signature", "question -> answer: nope"], "Unknown name: nope"),
        (["--signature", "none_such:Task"], "'none_such:Task' cannot be read: No module named 'none_such'"),
        (["--signature", "json:loads"], "'json:loads' cannot be read: A signature is"),
        (["--signature", "context, question -> answer"], "question would be missing. Put all inputs into a file"),
        (["--signature", "n: int -> answer"], "`n` cannot be read as the signature says"),
    ],
)
def test_bad_input_is_one_message_and_status_2(arguments: list[str], problem: str) -> None:
    write("bad.yaml", "proposer_models: [a")
    result = moa_dspy("ask", "q", *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and problem in words(result.stderr)
    error = printed("ask", "q", *arguments, status=2)["error"]
    assert problem in words(error["message"]) and error["type"].endswith("Error")


@pytest.mark.parametrize(("question", "stdin"), [("", ""), ("  ", ""), ("-", "\n")])
def test_an_empty_question_is_refused_before_anybody_is_asked(question: str, stdin: str) -> None:
    result = moa_dspy("ask", question, "--config", "none.yaml", stdin=stdin)
    assert result.exit_code == 2 and "The question is empty" in result.stderr


def test_limits_of_the_answer_are_options() -> None:
    result = moa_dspy("ask", CAPITAL, "--max-calls", "4", "--json")
    metadata = json.loads(result.stdout)["metadata"]
    assert (metadata["answered_by"], metadata["usage"]["calls"]) == ("voting", 4)
