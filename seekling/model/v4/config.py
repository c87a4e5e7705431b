"""What DeepSeek-V4 has beyond the fields that other families share (V4 §2; names as in its config.json)."""

from dataclasses import dataclass

SLIDING = "sliding_attention"
CSA = "compressed_sparse_attention"
HCA = "heavily_compressed_attention"
LAYER_TYPES = (SLIDING, CSA, HCA)


@dataclass(frozen=True)
class V4Config:
    """The nested part ``ModelConfig.v4``.

    ``layer_types`` of the ModelConfig names each layer's attention: ``sliding_attention`` sees the last ``sliding_window``
    tokens, the two compressed kinds see one entry for every closed block of ``compress_rate_*`` tokens beside them.  Layers
    with a compressor turn by ``compress_rope_theta`` and the ModelConfig's ``rope_scaling``, the others by ``rope_theta``
    without scaling.

    ``hc_mult`` residual streams are mixed by matrices that ``hc_sinkhorn_iters`` Sinkhorn steps make doubly stochastic.
    ``hash_layers`` choose experts by token id.  ``o_groups`` groups of heads are projected to ``o_lora_rank`` channels each.
    ``index_*`` belong to the indexer that picks ``index_topk`` entries a query in the sparse layers.
    """

    compress_rate_csa: int = 4
    compress_rate_hca: int = 128
    compress_rope_theta: float = 160000.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    hash_layers: tuple[int, ...] = ()
    o_groups: int = 8
    o_lora_rank: int = 1024
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512

    def rate(self, kind: str) -> int:
        """Tokens a compressed entry stands for in a layer of this kind; 0 without a compressor."""
        return {CSA: self.compress_rate_csa, HCA: self.compress_rate_hca}.get(kind, 0)
