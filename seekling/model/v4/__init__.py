"""DeepSeek-V4: compressed attention over a sliding window, several residual streams, experts chosen by hash or by score.

One file is one idea of the report: ``compressor`` and ``indexer`` (§2.3), ``attention`` (§2.3), ``hyper_connections`` (§2.2),
``moe`` (§2.1), ``cache`` (what a row remembers), ``decoder`` (all of it under the interface of ``seekling.model.Decoder``).
"""
