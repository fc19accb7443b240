"""Proposers behind litellm's Router: a group of deployments with fallbacks answers as one model.

$ python examples/router.py
Lima by ['fast', 'bob']
{'fast': 'router/fast', 'bob': 'simulated/bob'}
"""

from moa_dspy import MoA, MoAConfig

# `mock_response` stands in for a provider, so that this runs offline: take it out, and name your deployments.
answer = "[[ ## reasoning ## ]]\nI know it.\n\n[[ ## answer ## ]]\nLima\n\n[[ ## completed ## ]]"
config = MoAConfig(
    proposer_models=["router/fast", "simulated/bob"],
    aggregation_strategy="voting",
    router={
        "model_list": [
            {"model_name": "fast", "litellm_params": {"model": "openai/gpt-5.4-mini", "mock_response": answer}},
            {"model_name": "fast", "litellm_params": {"model": "gemini/gemini-3.8-flash", "mock_response": answer}},
        ]
    },
)
pred = MoA.from_config("question -> answer", config)(question="What is the capital of Peru?")
print(pred.answer, "by", pred.metadata.votes[0].proposals)
print({call.agent: call.model for call in pred.metadata.calls})
