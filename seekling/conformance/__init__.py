"""Is this a server that OpenAI's, Anthropic's or Ollama's clients can talk to? Checks to be pointed at any URL.

`target.py` speaks HTTP and nothing else; `checks.py` keeps the list and runs it; the other files hold the checks.
A check is a function that returns, or raises `Failed` with what is wrong, or `Skipped` with why it cannot be told.
"""
