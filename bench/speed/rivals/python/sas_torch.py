"""The SAS attention module (arXiv 2507.07694) in plain PyTorch: the rival that a user would otherwise write.

Written from the paper's equations; parameters are named as in the published module's state dict. Any PyTorch from 1.13 on
computes it; choosing a backend of scaled_dot_product_attention needs 2.3.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

BACKENDS = {  # by the names used in reports
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "cuDNN": "CUDNN_ATTENTION",
    "math": "MATH",
}


def sdpa_backend(name):
    """A context in which scaled_dot_product_attention uses just that backend, or raises."""
    if name is None:
        return contextlib.nullcontext()
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        raise RuntimeError(f"PyTorch {torch.__version__} cannot choose an SDPA backend (2.3 can)") from error
    backend = getattr(SDPBackend, BACKENDS[name], None)
    if backend is None:
        raise RuntimeError(f"PyTorch {torch.__version__} has no SDPA backend {BACKENDS[name]}")
    return sdpa_kernel([backend])


def unfused_attention(query, key, value, causal, scale):
    """[B, H, T, width] each, through the whole matrix of scores."""
    scores = query @ key.transpose(-2, -1) * scale
    if causal:
        time = scores.shape[-1]
        hidden = torch.ones(time, time, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    return torch.softmax(scores, dim=-1) @ value


def attention(query, key, value, causal=True, scale=None):
    """[B, H, T, width] each -> [B, H, T, value width]."""
    if not hasattr(F, "scaled_dot_product_attention"):
        return unfused_attention(query, key, value, causal, scale or 1 / math.sqrt(query.shape[-1]))
    options = {} if scale is None else {"scale": scale}
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal, **options)


class Residual(nn.Module):
    """x + process(relu(x))"""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x):
        return x + self.process(torch.relu(x))


class SasAttention(nn.Module):
    """Queries, keys and values [B, T, H, D] -> [B, T, H * D]."""

    def __init__(self, heads, head_dim, sim_heads, sim_head_dim, kernel_size=5, causal=True, scale=None):
        super().__init__()
        self.heads, self.sim_heads = heads, sim_heads
        self.causal, self.scale = causal, scale

        def convolution(inputs):
            return nn.Conv1d(inputs, sim_heads, kernel_size, padding=(kernel_size - 1) // 2)

        def expansion(features):
            layers = [convolution(heads), Residual(convolution(sim_heads))]
            if features:
                layers += [nn.Linear(head_dim, sim_head_dim), Residual(nn.Linear(sim_head_dim, sim_head_dim))]
            return nn.Sequential(*layers)

        self.sas_q = expansion(features=True)
        self.sas_k = expansion(features=True)
        self.sas_v = expansion(features=False)
        self.output_dense = nn.Linear(heads * head_dim, heads * head_dim)

    def expand(self, layers, x):
        """[B, T, H, D] -> [B, H', T, D']: the heads are the channels of a convolution along the features of one token."""
        batch, time, heads, width = x.shape
        expanded = layers(x.reshape(batch * time, heads, width))
        return expanded.view(batch, time, self.sim_heads, -1).transpose(1, 2)

    def forward(self, query, key, value):
        attended = attention(
            self.expand(self.sas_q, query),
            self.expand(self.sas_k, key),
            self.expand(self.sas_v, value),
            self.causal,
            self.scale,
        )
        batch, _, time, width = attended.shape
        groups = attended.transpose(1, 2).reshape(batch, time, self.sim_heads // self.heads, self.heads * width)
        # The projection is affine: the mean of the groups before it is the mean of the projected groups.
        return self.output_dense(groups.mean(dim=2))


class NaiveMha(nn.Module):
    """Plain causal attention over the real heads with the same output projection, unfused."""

    def __init__(self, heads, head_dim):
        super().__init__()
        self.output_dense = nn.Linear(heads * head_dim, heads * head_dim)

    def forward(self, query, key, value):
        batch, time, _, width = query.shape
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        attended = unfused_attention(query, key, value, causal=True, scale=1 / math.sqrt(width))
        return self.output_dense(attended.transpose(1, 2).reshape(batch, time, -1))
