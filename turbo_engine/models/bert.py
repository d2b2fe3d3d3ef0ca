"""BERT's encoder (Devlin et al. 2018, arXiv:1810.04805) by the parameter names of its published weights: token states, no pooling.

transformers has it too, but takes twice torch's own time to import (torch._dynamo and torch.distributed come with it), half of what
stands between the start of the app and its first clip. tests/test_text_encoder.py holds this one to that.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bert(nn.Module):
    """config: config.json as published; "gelu" and absolute positions are what is understood. Raises: ValueError for others."""

    def __init__(self, config: dict):
        super().__init__()
        for key, meant in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if (found := config.get(key, meant)) != meant:
                raise ValueError(f"config.json: {key}: expected {meant!r}, found {found!r}")
        dim, wide, self.num_heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        sizes = {"word": config["vocab_size"], "position": config["max_position_embeddings"], "token_type": config["type_vocab_size"]}

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(dim, config["layer_norm_eps"])

        tables = {f"{name}_embeddings": nn.Embedding(size, dim, _weight=torch.empty(size, dim)) for name, size in sizes.items()}
        self.embeddings = nn.ModuleDict(tables | {"LayerNorm": norm()})
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(nn.ModuleDict({
            "attention": nn.ModuleDict({
                "self": nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(dim, dim), "LayerNorm": norm()}),
            }),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(dim, wide)}),
            "output": nn.ModuleDict({"dense": nn.Linear(wide, dim), "LayerNorm": norm()}),
        }) for _ in range(config["num_hidden_layers"]))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids [B, S] and bool [B, S], False where a row is padding -> states [B, S, D] in the dtype of the weights."""
        tables = self.embeddings
        x = tables["word_embeddings"](ids) + tables["position_embeddings"].weight[:ids.shape[1]] + tables["token_type_embeddings"].weight[0]
        x = tables["LayerNorm"](x)
        for layer in self.encoder["layer"]:
            attention = layer["attention"]
            q, k, v = (attention["self"][name](x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
            x = attention["output"]["LayerNorm"](x + attention["output"]["dense"](mixed))
            wide = F.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](x + layer["output"]["dense"](wide))
        return x
