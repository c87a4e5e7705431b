"""Native kernels agree with their torch oracles: values and gradients, odd shapes, both dtypes, every level this CPU has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.kernels import native, ops, oracle
from seekling.kernels.attention import first_visible
from seekling.kernels.log_prob import LinearLogProb
from seekling.kernels.tree_attention import TokenTree, attend_tree
from seekling.model.attention import attend
from seekling.model.rope import rotate
from seekling.model.sight import causal_mask

TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2.5e-2}
LEVELS = [level for level, needs in native._LEVELS.items() if needs <= native.cpu_flags()]
once = pytest.mark.skipif("SEEKLING_NATIVE" in os.environ, reason="already running one level")
needs_native = pytest.mark.skipif(not native.available(), reason=f"kernels run on {native.status()}")
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def leaf(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


def agree(fast, slow, inputs, dtype, floor: float = 1.0) -> None:
    """Values and gradients of ``fast`` equal those of ``slow``, relative to the largest entry of each; ``floor`` is the
    size of the terms that may cancel in it."""
    got, want = fast(*inputs), slow(*inputs)
    got, want = (x if isinstance(x, tuple) else (x,) for x in (got, want))
    cotangents = [torch.randn(o.shape, generator=torch.Generator().manual_seed(5)).to(o.dtype) for o in want]
    leaves = [x for x in inputs if x.requires_grad]
    pairs = list(zip(got, want, strict=True))
    pairs += zip(torch.autograd.grad(got, leaves, cotangents), torch.autograd.grad(want, leaves, cotangents), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a.float() - b.float()).abs().max() <= TOLERANCE[dtype] * (b.float().abs().max() + floor)


@needs_native
@given(rows=st.integers(1, 40), width=st.integers(16, 300), dtype=dtypes, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_norm_and_swiglu_agree_with_torch_on_odd_shapes(rows, width, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = leaf(g, rows, width, dtype=dtype), leaf(g, rows, width, dtype=dtype)
    w = torch.rand(width, generator=g).add(0.5).requires_grad_()
    agree(lambda x, w: ops.RMSNorm.apply(x, w, 1e-6), lambda x, w: oracle.rms_norm(x, w, 1e-6), [x, w], dtype)
    agree(
        lambda x, y, w: ops.AddRMSNorm.apply(x, y, w, 1e-6),
        lambda x, y, w: (x + y, oracle.rms_norm(x + y, w, 1e-6)),
        [x, y, w],
        dtype,
    )
    agree(ops.SwiGLU.apply, oracle.swiglu, [x, y], dtype)


@needs_native
@given(
    tokens=st.integers(1, 90),
    experts=st.integers(1, 9),
    dims=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=dtypes,
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=30)
def test_grouped_experts_agree_with_the_loop_over_experts(tokens, experts, dims, dtype, seed, data):
    g = torch.Generator().manual_seed(seed)
    (d, m), k = dims, data.draw(st.integers(1, experts))
    x, gate_up, down = (leaf(g, *s, dtype=dtype) for s in ((tokens, d), (experts, 2 * m, d), (experts, d, m)))
    weights = torch.rand(tokens, k, generator=g).requires_grad_()
    indices = torch.rand(tokens, experts, generator=g).topk(k, -1)[1]
    agree(
        lambda x, w, gu, dn: ops.grouped_experts(x, w, indices, gu, dn),
        lambda x, w, gu, dn: oracle.loop_experts(x, w, indices, gu, dn),
        [x, weights, gate_up, down],
        dtype,
    )


@given(tokens=st.integers(1, 50), vocab=st.integers(2, 130), chunk=st.integers(1, 60), dtype=dtypes, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_chunked_cross_entropy_equals_all_logits_at_once(tokens, vocab, chunk, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    h, w = leaf(g, tokens, 24, dtype=dtype), leaf(g, vocab, 24, dtype=dtype)
    target = torch.randint(0, vocab, (tokens,), generator=g)
    target[torch.rand(tokens, generator=g) < 0.2] = -100
    agree(
        lambda h, w: ops.linear_cross_entropy(h, w, target, 0.1, chunk).float(),
        lambda h, w: oracle.linear_cross_entropy(h, w, target, 0.1),
        [h, w],
        dtype,
        floor=0.05,
    )


def test_a_chunk_without_any_target_has_zero_loss_and_zero_gradient():
    h, w = (torch.randn(*s, requires_grad=True) for s in ((7, 8), (11, 8)))
    loss = ops.linear_cross_entropy(h, w, torch.full((7,), -100), 1.0, 4)
    loss.backward()
    assert loss == 0 and h.grad.abs().max() == 0 and w.grad.abs().max() == 0


@needs_native
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 3)),
    dims=st.tuples(st.integers(1, 20), st.integers(1, 10), st.integers(1, 40)),
    interleave=st.booleans(),
    packed=st.booleans(),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_mla_attention_agrees_with_torch_attention(size, dims, interleave, packed, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    (B, T, H), (N, half, V) = size, dims
    R = 2 * half
    q, kv, kr = (leaf(g, *s, dtype=dtype) for s in ((B, T, H, N + R), (B, T, H, N + V), (B, T, R)))
    angle = torch.rand(T, half, generator=g) * 6
    cos, sin = angle.cos(), angle.sin()
    doc = (torch.rand(B, T, generator=g) < 0.1).cumsum(-1).to(torch.int32) if packed else None

    def slow(q, kv, kr):
        turned = torch.cat([q[..., :N], rotate(q[..., N:], cos[:, None], sin[:, None], interleave=interleave)], -1)
        mask = causal_mask(T, T, doc, q.device)
        return attend(turned, kv, rotate(kr, cos, sin, interleave=interleave), mask, 0.3, N)

    agree(
        lambda q, kv, kr: ops.mla_attention(q, kv, kr, cos, sin, first_visible(doc, *q.shape[:2]), 0.3, interleave),
        slow,
        [q, kv, kr],
        dtype,
    )


@needs_native
def test_results_do_not_depend_on_the_number_of_threads():
    def run():
        g = torch.Generator().manual_seed(3)
        x, w = leaf(g, 257, 96), leaf(g, 96)
        q, kv, kr = leaf(g, 2, 70, 3, 24), leaf(g, 2, 70, 3, 40), leaf(g, 2, 70, 8)
        angle = torch.rand(70, 4, generator=g)
        out = ops.RMSNorm.apply(x, w, 1e-6).sum() * 1e-2
        out = out + ops.mla_attention(q, kv, kr, angle.cos(), angle.sin(), first_visible(None, *q.shape[:2]), 0.2, True).sum()
        return torch.autograd.grad(out, [x, w, q, kv, kr])

    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@once
@needs_native
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_that_this_processor_has_passes_the_same_tests(level):
    env = dict(os.environ, SEEKLING_NATIVE=level)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@once
def test_without_a_library_the_model_runs_on_torch_and_says_so():
    code = "from seekling.kernels import available, status; print(available(), status())"
    env = dict(os.environ, SEEKLING_NATIVE="0")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False torch (SEEKLING_NATIVE=0)"


@once
@needs_native
def test_a_library_of_other_sources_is_not_used_and_how_to_build_it_is_told(tmp_path):
    """A checkout of its own, whose libraries are these: unchanged it is native, with one comment more in a source it is not."""
    if native.stamp(Path(native.__file__).parent) is None:
        pytest.skip("needs a source checkout")
    home = Path(native.__file__).parent.parent.parent
    shutil.copytree(
        home / "seekling", tmp_path / "seekling", symlinks=True, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    for path in (home / "seekling" / "kernels").glob("*.so"):
        (tmp_path / "seekling" / "kernels" / path.name).symlink_to(path)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(home / name, tmp_path)
    code = "from seekling.kernels import available, native, status; print(native.__file__, available(), status())"

    def told():
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.startswith(str(tmp_path))
        return done.stdout.split(" ", 1)[1], done.stderr

    env = dict(os.environ, PYTHONPATH=str(tmp_path), SEEKLING_NATIVE="base")
    assert told() == ("True native, base\n", "")
    with open(tmp_path / "seekling" / "kernels" / "csrc" / "common.h", "a") as file:
        file.write("// another version\n")
    out, err = told()
    assert out.startswith("False torch (") and "built from other sources" in out
    assert err.count("\n") == 1 and "setup.py build_ext --inplace --force" in err


@once
def test_an_unknown_level_is_named():
    env = dict(os.environ, SEEKLING_NATIVE="avx1024")
    code = "from seekling.kernels import status; status()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "avx1024" in done.stderr and "avx2" in done.stderr


@st.composite
def trees(draw):
    groups = draw(st.lists(st.lists(st.integers(1, 45), min_size=1, max_size=4), min_size=1, max_size=4))
    return TokenTree.of(groups)


@needs_native
@given(
    tree=trees(), heads=st.sampled_from([(3, 1), (4, 4), (4, 2)]), sizes=st.sampled_from([(16, 16), (20, 8), (64, 64), (6, 2)]),
    window=st.sampled_from([None, 1, 9, 40]), interleave=st.booleans(), dtype=dtypes, seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40)
def test_attention_in_a_tree_agrees_with_torch(tree, heads, sizes, window, interleave, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    (H, G), (P, R) = heads, sizes
    q, k, v = (leaf(g, tree.tokens, n, P, dtype=dtype) for n in (H, G, G))
    angles = torch.randn(200, R // 2, generator=g)
    cos, sin = angles.cos(), angles.sin()

    def slow(q, k, v):
        turn = cos[tree.positions_N][:, None], sin[tree.positions_N][:, None]
        q, k = (torch.cat([rotate(x[..., :R], *turn, interleave=interleave), x[..., R:]], -1) for x in (q, k))
        return attend_tree(q, k, v, tree, 0.3, window or 0)

    fast = lambda q, k, v: ops.tree_attention(q, k, v, cos, sin, tree, 0.3, interleave=interleave, window=window)  # noqa: E731
    agree(fast, slow, [q, k, v], dtype)


def test_a_stream_of_documents_is_cut_where_they_begin():
    tree = TokenTree.of_documents(torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.int32), 2, 5)
    assert tree.segments.tolist() == [[0, 2, 0], [2, 3, 2], [5, 5, 0]] and tree.first.tolist() == [0, 1, 2, 3]
    shared = TokenTree.of([[3, 2, 1], [2]])
    assert shared.segments.tolist() == [[0, 3, 0], [3, 2, 3], [5, 1, 3], [6, 2, 0]]
    assert shared.positions_N.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    index, home = shared.padded
    assert index[2, :4].tolist() == [0, 1, 2, 5] and index.flatten()[home].tolist() == list(range(8))


@pytest.mark.parametrize("kept", [0, 1 << 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_agree_with_full_logits(kept, dtype, monkeypatch):
    monkeypatch.setattr("seekling.kernels.log_prob.KEPT", kept)
    g = torch.Generator().manual_seed(1)
    h, w = leaf(g, 37, 24, dtype=dtype), leaf(g, 301, 24, dtype=dtype)
    target = torch.randint(0, 301, (37,), generator=g)

    def slow(h, w):
        logp = torch.log_softmax((h @ w.t()).float() / 0.8, -1)
        return logp.gather(1, target[:, None])[:, 0]

    agree(lambda h, w: LinearLogProb.apply(h, w, target, 0.8, 16)[0], slow, [h, w], dtype)
    logp = torch.log_softmax((h @ w.t()).float() / 0.8, -1)
    entropy = LinearLogProb.apply(h, w, target, 0.8, 16)[1]
    assert torch.allclose(entropy, -(logp.exp() * logp).sum(-1), atol=2e-3)
