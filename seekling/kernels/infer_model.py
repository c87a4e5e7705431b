"""The structures of csrc/infer_model.h, and the call that runs one step of a whole model."""

import ctypes
from ctypes import c_double, c_float, c_int32, c_int64, c_void_p

from seekling.errors import MachineError
from seekling.kernels import native
from seekling.kernels.infer import CMatrix, Packed

EMPTY = CMatrix()  # outputs 0: there is no such matrix


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class CLayer(ctypes.Structure):
    """struct Layer."""

    _fields_ = [
        *_fields(c_void_p, "attention_norm mlp_norm"),
        *_fields(CMatrix, "q k v o q_a q_b kv_a k_b v_b"),
        *_fields(c_void_p, "q_norm k_norm sinks"),
        *_fields(CMatrix, "gate up down shared_gate router"),
        *_fields(c_void_p, "router_bias"),
        *_fields(CMatrix, "expert_gate expert_up expert_down"),
        *_fields(c_int64, "cache_offset"),
        *_fields(c_int32, "window moe kind reserved"),
    ]


class CLowRank(ctypes.Structure):
    """struct LowRank."""

    _fields_ = [
        *_fields(c_void_p, "a b"),
        *_fields(c_int64, "a_stride b_stride"),
        *_fields(c_int32, "rank reserved"),
    ]


class CDraft(ctypes.Structure):
    """struct Draft."""

    _fields_ = [
        ("join", CMatrix),
        *_fields(c_void_p, "token_norm state_norm head_norm"),
        *_fields(c_int32, "state_first after_norm vocabulary reserved"),
    ]


class CModel(ctypes.Structure):
    """struct Model."""

    _fields_ = [
        *_fields(c_void_p, "layers"),
        ("draft", CDraft),
        *_fields(CMatrix, "embedding head"),
        *_fields(c_void_p, "final_norm cosines sines pool adapters"),
        *_fields(c_int64, "page_bytes"),
        *_fields(
            c_int32, "layer_count hidden width_max vocabulary attention heads kv_heads head_dim nope rotary latent q_latent"
        ),
        *_fields(c_int32, "interleaved qk_norm experts experts_per_token expert_width scoring normalise group_count"),
        *_fields(c_int32, "groups_kept group_best clamped most_rank"),
        *_fields(c_int32, "cache_int8 reserved0 reserved1 reserved2"),
        *_fields(c_float, "eps qk_eps attention_scale routed_scale norm_min swiglu_alpha swiglu_limit reserved_float"),
    ]


class CStep(ctypes.Structure):
    """struct Step."""

    _fields_ = [
        *_fields(c_void_p, "ids chunk_rows chunk_start page_offset pages chunk_adapter wanted logits states raw_states routed"),
        *_fields(c_int64, "logits_stride"),
        *_fields(c_int32, "chunks wanted_count threads reserved"),
    ]


class CDrafting(ctypes.Structure):
    """struct Drafting."""

    _fields_ = [*_fields(c_void_p, "states room tokens chances"), ("most", c_int32), ("least", c_float)]


class CBurst(ctypes.Structure):
    """struct Burst."""

    _fields_ = [
        *_fields(c_void_p, "ids pages uniforms stops hurry states logprobs routed rounds seconds"),
        ("top_p", c_double),
        *_fields(c_float, "temperature min_p least"),
        *_fields(c_int32, "top_k known length page_count stop_count unread enough most drafts look adapter threads"),
        *_fields(c_int32, "count round_count damaged"),
    ]


_MIRRORED = (CMatrix, CLayer, CModel, CStep, CLowRank, CDraft, CDrafting, CBurst)


class NativeModel:
    """A decoder described to the native library, with its scratch memory. ``keep`` holds whatever the pointers point at."""

    def __init__(self) -> None:
        self._open, self._close = native.symbol("infer_open"), native.symbol("infer_close")
        self._step, self._draft = native.symbol("infer_step"), native.symbol("infer_draft")
        self._burst = native.symbol("infer_burst")
        if None in (self._open, self._close, self._step, self._draft, self._burst):
            raise MachineError(f"the native runner is not available here: {native.status()}")
        sizes = (c_int64 * len(_MIRRORED))()
        check = native.symbol("infer_sizes")
        assert check is not None
        check(sizes)
        if list(sizes) != [ctypes.sizeof(kind) for kind in _MIRRORED]:
            raise MachineError("the native library is of another version; build it again with `pip install -e .`")
        self._open.restype, self._open.argtypes = c_void_p, []
        self._close.restype, self._close.argtypes = None, [c_void_p]
        self._step.restype, self._step.argtypes = None, [c_void_p, c_void_p, c_void_p]
        self._draft.restype, self._draft.argtypes = None, [c_void_p, c_void_p, c_void_p, c_void_p]
        self._burst.restype, self._burst.argtypes = None, [c_void_p, c_void_p, c_void_p]
        self.model = CModel()
        self.keep: list[object] = []
        self._handle = self._open()

    def matrix(self, packed: Packed | None) -> CMatrix:
        """The structure of a packed matrix, which is kept alive; None gives an empty one."""
        if packed is None:
            return EMPTY
        self.keep.append(packed)
        return packed.c

    def layer_page_bytes(self) -> int:
        """Bytes one layer keeps of a page of tokens."""
        function = native.symbol("infer_layer_page_bytes")
        assert function is not None
        function.restype = c_int64
        return function(ctypes.byref(self.model))

    def step(self, step: CStep) -> None:
        """Run it; tensors behind the pointers must stay until this returns."""
        self._step(self._handle, ctypes.addressof(self.model), ctypes.addressof(step))

    def draft(self, step: CStep, drafting: CDrafting) -> None:
        """Let the MTP layer read the rows of a step and draft on from their last; see struct Drafting."""
        self._draft(self._handle, ctypes.addressof(self.model), ctypes.addressof(step), ctypes.addressof(drafting))

    def burst(self, burst: CBurst) -> None:
        """Several tokens of one sequence; see struct Burst."""
        self._burst(self._handle, ctypes.addressof(self.model), ctypes.addressof(burst))

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and self._close is not None:
            self._close(self._handle)
            self._handle = None
