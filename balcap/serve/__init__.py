"""Servers: an OpenAI-compatible endpoint over the scenes' truth, and vLLM for real models. Both bind to loopback."""
