"""`mlflow.pyfunc.spark_udf` over a logged mixture, on a local Spark.

uv run --extra spark pytest -m spark
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import asked

import moa_dspy
from moa_dspy import Agent, MoA

pyspark_sql: Any = pytest.importorskip("pyspark.sql", reason="Spark is not installed: pip install 'moa-dspy[spark]'")
pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # PySpark's own
]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = pyspark_sql.SparkSession.builder
    for name, value in {"ui.enabled": "false", "driver.host": "127.0.0.1", "sql.shuffle.partitions": "2"}.items():
        builder = builder.config(f"spark.{name}", value)
    session = builder.master("local[2]").getOrCreate()
    yield session
    session.stop()


def reply(request: ChatRequest) -> str | Reply:
    """The number in the question; q-1 is one that nobody can answer."""
    prompt = asked(request.prompt)
    assert prompt is not None
    number = int(prompt.inputs["question"].removeprefix("q"))
    if number < 0:
        return Reply("no", status=400)
    values = {"answer": number, "even": number % 2 == 0, "words": prompt.inputs["tags"], "kind": f"k{number}"}
    return prompt.render({"reasoning": "so", **values})


def test_every_row_is_answered_once(spark: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow hands OpenAI's variables to the workers; those of others are given as extra_env.
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with OpenAIServer(reply) as provider:
        agents = [Agent(f"openai/{n}", api_base=provider.url, cache=False, num_retries=0) for n in "ab"]
        task = "question, tags: list[str] -> answer: int, even: bool, words: list[str], kind"
        info = moa_dspy.log_model(MoA(task, agents, strategy="voting"), "votes")
        udf = mlflow.pyfunc.spark_udf(spark, info.model_uri, params={"concurrency": 4})
        asked_for = [f"q{n}" for n in range(12)]
        asked_for[3], asked_for[7] = "q-1", None  # type: ignore[call-overload]
        table = spark.createDataFrame(
            [(n, question, ["x", "y"]) for n, question in enumerate(asked_for)],
            "n int, question string, tags array<string>",
        ).repartition(3)
        answered = table.withColumn("row", udf("question", "tags")).select(
            "n", "row.outputs.*", "row.account.error", "row.account.agreement", "row.account.degraded"
        )
        rows = {row["n"]: row.asDict() for row in answered.collect()}
    assert [rows[n]["answer"] for n in range(12)] == [0, 1, 2, None, 4, 5, 6, None, 8, 9, 10, 11]
    assert rows[4] == {
        "n": 4,
        "answer": 4,
        "even": True,
        "words": ["x", "y"],
        "kind": "k4",
        "error": None,
        "agreement": 1.0,
        "degraded": False,
    }
    assert rows[7].pop("error").startswith("ValueError: The input question is missing")
    assert rows[7] == {**dict.fromkeys(rows[7]), "n": 7}
    assert rows[3]["error"].startswith("TooFewProposals: ") and rows[3]["kind"] is rows[3]["even"] is None
    # Eleven questions for two: Spark has evaluated the function once for a row, whatever is selected of its struct.
    assert len(provider.requests) == 22
