"""What a weight is called and what it does: role and block from the names that model families use.

Roles: q k v o (attention), qkv (fused), gate up down (feed-forward), conv, embed, head, fc (any other linear).
A feed-forward pair without a gate is up and down too. Rules are tried in order on the layer's name without
`.weight`; the first that matches wins.
"""

from __future__ import annotations

import re

RULES: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)(lm_head|embed_out|output_projection|classifier|head|predictions\.decoder|vocab_projector)$",
        "head",
    ),
    (r"(^|\.)(qkv|query_key_value|qkv_proj|c_attn|in_proj_weight|in_proj|Wqkv)$", "qkv"),
    (r"(^|[._])(q_proj|q_lin|query|to_q|wq|attn_q|q)$", "q"),
    (r"(^|[._])(k_proj|k_lin|key|to_k|wk|attn_k|k)$", "k"),
    (r"(^|[._])(v_proj|v_lin|value|to_v|wv|attn_v|v)$", "v"),
    (r"(^|\.)(gate_proj|w1|ffn_gate|wi_0)$", "gate"),
    (
        r"(^|\.)(gate_up_proj|up_proj|w3|ffn_up|wi_1|wi|fc1|c_fc|lin1|dense_h_to_4h|intermediate\.dense)$",
        "up",
    ),
    (r"(^|\.)(mlp|ffn|feed_forward)\.(c_proj|proj)$", "down"),
    (r"(^|\.)(DenseReluDense|mlp)\.wo$", "down"),
    (r"(^|\.)(down_proj|w2|ffn_down|fc2|lin2|dense_4h_to_h)$", "down"),
    (r"(^|\.)attention\.output\.dense$", "o"),
    (r"(^|\.)output\.dense$", "down"),
    (r"(^|\.)(o_proj|out_proj|out_lin|wo|to_out\.0|attn_output|attention\.dense|o)$", "o"),
    (r"(^|\.)(attn|self_attn|attention|self_attention)\.(c_proj|proj|dense)$", "o"),
    (r"(^|\.)(embed_tokens|embed_positions|wte|wpe|tok_embeddings|token_embd|embed_in|shared)$", "embed"),
    (r"(^|\.)((word|position|token|token_type)_embeddings?|embeddings?|relative_attention_bias)$", "embed"),
)
ROLES = ("embed", "q", "k", "v", "qkv", "o", "gate", "up", "down", "conv", "fc", "head")
# GPT-2's Conv1D keeps its weights as [in, out]; other families use its names for plain linear layers.
CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
TRANSPOSED = re.compile(r"(^|\.)h\.\d+\.(attn\.(c_attn|c_proj|q_attn)|mlp\.(c_fc|c_proj))$")


def role_of(name: str, dimensions: int) -> str:
    """The role of a layer by its name and the number of axes of its tensor (4: a convolution)."""
    for pattern, role in RULES:
        if re.search(pattern, name):
            return role
    return "conv" if dimensions > 2 else "fc"


def block_prefix(name: str) -> str | None:
    """The part of a layer's name that its whole block shares: up to the first counter before its own last part."""
    parts = name.split(".")
    counters = [i for i, part in enumerate(parts[:-1]) if part.isdigit()]
    # nn.Sequential numbers inside a block (to_out.0, downsample.0) are no blocks: take the first counter.
    return ".".join(parts[: counters[0] + 1]) if counters else None
