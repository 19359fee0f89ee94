"""Attention and rotary positions as operators.

Legend: B rows, H heads, Q queries, K keys, D size of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, standard
from mainspring.models.onnx.types import TYPES


def attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Scaled dot-product attention over heads, with a cache, a mask, a causal rule and a soft cap."""
    flat = q.ndim == 3
    if flat:
        q = _heads(q, call.attributes["q_num_heads"])
        k, v = (_heads(x, call.attributes["kv_num_heads"]) for x in (k, v))
    before = 0 if past_k is None else past_k.shape[2]
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    present_k, present_v = k, v
    share = q.shape[1] // k.shape[1]
    if share > 1:
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    root = (call.get("scale") or q.shape[-1] ** -0.5) ** 0.5
    scores = (q * root) @ (k * root).transpose(-1, -2)
    mode = call.get("qk_matmul_output_mode", 0)
    kept = scores
    bias = _bias(call, scores, mask, lengths, before)
    cap = call.get("softcap", 0.0)
    capped = torch.tanh(scores / cap) * cap if cap else scores
    scores = capped if bias is None else capped + bias
    kept = {0: kept, 1: capped, 2: scores}.get(mode, kept)
    precision = call.get("softmax_precision")
    wide = scores.to(TYPES[precision]) if precision else scores
    weights = torch.softmax(wide, -1).to(q.dtype)
    weights = torch.nan_to_num(weights) if bias is not None else weights
    kept = weights if mode == 3 else kept
    y = weights @ v
    y = y.transpose(1, 2).flatten(2) if flat else y
    return call.outputs_of(y, present_k, present_v, kept)  # type: ignore[no-any-return]


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def _bias(
    call: Call, scores: Tensor, mask: Tensor | None, lengths: Tensor | None, before: int
) -> Tensor | None:
    """What is added to the scores [B, H, Q, K]."""
    queries, keys = scores.shape[-2:]
    bias: Tensor | None = None
    blocked = torch.zeros((), dtype=torch.bool, device=scores.device)
    if mask is not None:
        short = keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            blocked = blocked | ~torch.nn.functional.pad(mask, (0, short), value=False)
        else:
            bias = torch.nn.functional.pad(mask, (0, short), value=float("-inf")).to(scores.dtype)
    place = torch.arange(keys, device=scores.device)
    if lengths is not None:
        ends = lengths.to(scores.device)[:, None, None, None]
        blocked = blocked | (place >= ends)
    causal, left, right = (
        bool(call.get("is_causal", 0)),
        call.get("left_window_size", -1),
        call.get("right_window_size", -1),
    )
    if causal or left >= 0 or right >= 0:
        offset: Tensor | int = before if lengths is None else (ends - queries)
        here = torch.arange(queries, device=scores.device)[:, None] + offset
        if causal:
            blocked = blocked | (place > here)
        if left >= 0:
            blocked = blocked | (place < here - left)
        if right >= 0:
            blocked = blocked | (place > here + right)
    if blocked.ndim:
        bias = torch.zeros_like(scores) if bias is None else bias
        bias = bias.masked_fill(blocked, float("-inf"))
    return bias


def rotary_embedding(
    call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Turn pairs of a head's coordinates by their positions (Su et al. 2021, arXiv 2104.09864)."""
    flat = x.ndim == 3
    if flat:
        x = _heads(x, call.attributes["num_heads"])
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos[:, None], sin[:, None]  # [B, 1, T, D / 2]
    size = call.get("rotary_embedding_dim", 0) or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    if call.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        made = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        made = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    made = torch.cat([made, rest], -1)
    return made.transpose(1, 2).flatten(2) if flat else made


ATTENTION: Table = standard({("Attention", 23): attention, ("RotaryEmbedding", 23): rotary_embedding})
