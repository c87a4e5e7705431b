"""A model of a few thousand weights and a stateless source of generated rows, shared by the training tests."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seekling.model import Decoder, ModelConfig
from seekling.train.log import TIMES, RunLog, read_log
from seekling.train.loop import Loop, LoopSettings, Terms
from seekling.train.loss import compute_loss, targets_of
from seekling.train.optim import Optimizer, OptimSettings
from seekling.train.state import Checkpoints

VOCAB, LENGTH = 48, 16


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny products on several threads wait more than they work; import this to use it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_config(**changes) -> ModelConfig:
    fields = dict(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, moe_intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4,
        n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
        num_nextn_predict_layers=1, max_position_embeddings=64, routed_scaling_factor=1.4,
    )  # fmt: skip
    return ModelConfig(**{**fields, **changes})


@dataclass
class Rows:
    tokens_BS: Tensor
    doc_BS: Tensor
    mask_BS: Tensor | None = None

    def part(self, rows: slice) -> "Rows":
        return Rows(self.tokens_BS[rows], self.doc_BS[rows], None if self.mask_BS is None else self.mask_BS[rows])


def rows_of_step(step: int, batch: int, length: int = LENGTH, extra: int = 2, n_rows: int = 24, seed: int = 5) -> Rows:
    """Rows of counting sequences, two documents each; ``n_rows`` in an epoch, each epoch in its own order."""
    tokens, docs = [], []
    for i in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(i, n_rows)
        order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed * 1000 + epoch))
        g = torch.Generator().manual_seed(int(order[place]))
        start, stride, cut = (int(torch.randint(1, n, (1,), generator=g)) for n in (VOCAB, 5, length))
        ramp = torch.arange(length + extra)
        tokens.append(torch.where(ramp < cut, start + stride * ramp, 7 + ramp) % VOCAB)
        docs.append((ramp >= cut).int())
    return Rows(torch.stack(tokens), torch.stack(docs))


class TinyPretraining:
    """The objective the loop is tested with."""

    def __init__(self, model: Decoder, batch: int = 4, micro: int = 4, chunk: int = 1024, source=rows_of_step, alpha=1e-3):
        self.model, self.batch, self.micro, self.chunk, self.source, self.alpha = model, batch, micro, chunk, source, alpha

    def load(self, step: int) -> Sequence[tuple[Rows, int]]:
        rows = self.source(step, self.batch)
        targets = int((targets_of(rows, LENGTH, 1) >= 0).sum())
        return [(rows.part(slice(i, i + self.micro)), targets) for i in range(0, self.batch, self.micro)]

    def terms(self, micro, step: int) -> Terms:
        rows, targets = micro
        out = compute_loss(
            self.model, rows, mtp_weight=0.3, seq_balance_alpha=self.alpha, targets=targets, rows=self.batch, chunk=self.chunk
        )
        means = {"ce": (float(out.ce_sum), out.targets), "mtp_ce": (float(out.mtp_ce_sum), out.mtp_targets)}
        return Terms(out.loss, out.targets, rows.tokens_BS.shape[0] * LENGTH, means, out.loads_LE)


def tiny_loop(
    steps=8, dtype=torch.float32, optimizer="adamw", seed=0, config=None, objective=None, lr=1e-2, weights=None, **kw
) -> Loop:
    """A loop over a fresh tiny model, or over ``weights``; keywords of LoopSettings and Loop are told apart by name."""
    model = Decoder.build(config or tiny_config(), seed=seed)
    if weights is not None:
        model.load_state_dict(weights)
    own = {k: kw.pop(k) for k in list(kw) if k in {f.name for f in dataclasses.fields(LoopSettings)}}
    settings = LoopSettings(steps, **{"lr": lr if callable(lr) else lambda step: lr, "router_speed": lambda step: 0.01, **own})
    opt = Optimizer(model, OptimSettings(optimizer), dtype)
    return Loop(model, opt, (objective or TinyPretraining)(model), settings, **kw)


def all_tensors(loop: Loop) -> dict[str, Tensor]:
    """Everything that must be equal after a resume: float32 weights, compute copies, buffers, optimizer state."""
    masters = {f"master.{n}": t for n, t in loop.optimizer.weights.full_state(loop.model).items()}
    return {k: v.clone() for k, v in {**loop.model.state_dict(), **masters, **loop.optimizer.state()}.items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert different == []


def saving_loop(folder, steps=8, log_step=0, keep_hooks=True, save_every=2, keep=3, warn=lambda line: None, **kw) -> Loop:
    """A tiny loop that logs to and saves in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    loop = tiny_loop(
        steps, save_every=save_every, log=RunLog(folder / "log.jsonl", log_step, (), keep_hooks), pinned={"recipe": "tiny"},
        checkpoints=Checkpoints(folder / "checkpoints", keep, warn), **kw,
    )  # fmt: skip
    loop.write_model = lambda f: save_file(loop.optimizer.weights.full_state(loop.model), f / "model.safetensors")
    return loop


def resumed_loop(folder, warn=lambda line: None, **kw) -> Loop:
    """The same loop in a fresh process's state: other initial weights, then what the newest checkpoint holds."""
    checkpoints = Checkpoints(folder / "checkpoints", warn=warn)
    checkpoints.clean()
    saved = checkpoints.load()
    kw |= dict(log_step=saved.step, keep_hooks=saved.values["hooks_done"], warn=warn)
    loop = saving_loop(folder, weights=load_file(saved.path / "model.safetensors"), **kw)
    loop.restore(saved)
    return loop


def records(folder) -> list[dict]:
    """The log without what depends on the clock."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_log(folder / "log.jsonl")]
