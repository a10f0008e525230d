"""The functions that are rewritten."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from torch_backend.modules.exact.embeddings import embedding, embedding_bag
from torch_backend.modules.exact.functions import bilinear, hardsigmoid, prelu, weight_norm
from torch_backend.modules.exact.normalisation import (
    batch_norm,
    instance_norm,
    layer_norm,
    torch_batch_norm,
    torch_instance_norm,
    torch_layer_norm,
)
from torch_backend.modules.exact.recurrence import gru_cell, lstm_cell, simple_cell

__all__ = ["MISSING", "RECURRENT_LAYERS", "REWRITTEN", "WITHOUT_FUSED_ATTENTION"]

REWRITTEN: dict[Any, Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    torch.batch_norm: torch_batch_norm,
    torch.instance_norm: torch_instance_norm,
    torch.layer_norm: torch_layer_norm,
    torch._weight_norm: weight_norm,
    F.hardsigmoid: hardsigmoid,
    F.bilinear: bilinear,
    F.prelu: prelu,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
    F.embedding: embedding,
    F.embedding_bag: embedding_bag,
    torch.rnn_tanh_cell: simple_cell(torch.tanh),
    torch.rnn_relu_cell: simple_cell(torch.relu),
    torch.lstm_cell: lstm_cell,
    torch.gru_cell: gru_cell,
}
"""Function → what takes its place."""
MISSING = {F.embedding_bag, F.hardsigmoid, torch._weight_norm}
"""Functions of which torch has no second derivative, or a wrong one without `torch.func` too."""
WITHOUT_FUSED_ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
"""Functions whose fused kernels have no second derivative."""
RECURRENT_LAYERS = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}
"""Functions whose cuDNN kernels have no second derivative."""
