"""One process that answers over HTTP: OpenAI's, DeepSeek's, Anthropic's and Ollama's ways over one engine (docs/serving.md)."""
