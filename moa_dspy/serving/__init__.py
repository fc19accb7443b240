"""Mixtures behind the doors of other programs: LiteLLM's proxy, MCP, a chat in the terminal."""
