"""Models on this machine beside a provider's: Ollama, vLLM, and two OpenAI-compatible providers with two keys.

$ python examples/local_models.py
llama3_2 ollama_chat/llama3.2
my_model hosted_vllm/my-model
groq openai/llama-3.3-70b
aggregator openai/gpt-5.4-mini
moa-dspy doctor --config moa.yaml asks each of them, and says what must be done
"""

from moa_dspy import MoA, MoAConfig

config = MoAConfig.model_validate(
    {
        "proposers": [
            "ollama_chat/llama3.2",  # on this machine
            {"model": "hosted_vllm/my-model", "api_base": "http://localhost:8000/v1"},
            {
                "model": "openai/llama-3.3-70b",
                "name": "groq",
                "api_base": "https://api.groq.com/openai/v1",
                "api_key": "os.environ/GROQ_API_KEY",
                "prices": {"input": 0.59, "output": 0.79},
            },
        ],
        "aggregator": "openai/gpt-5.4-mini",
    }
)
moa = MoA.from_config("question -> answer", config)
for agent in moa.agents:
    print(agent.name, agent.model)
print("moa-dspy doctor --config moa.yaml asks each of them, and says what must be done")
