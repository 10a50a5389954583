"""CLIP's text transformer (Radford et al. 2021, arXiv:2103.00020, section 2.4), the text encoder of
Stable Diffusion.

Parameter names and config keys are the same as in transformers' ``CLIPTextModel``. Newer versions
write keys without the ``text_model.`` prefix; these keys can also be read (``hub.files``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sfumato.config import Config
from sfumato.layers import check_heads

# Keys of transformers' generic base class. They concern training or the form of outputs, not the
# computation.
IRRELEVANT = frozenset(
    "architectures attention_dropout bad_words_ids begin_suppress_tokens chunk_size_feed_forward "
    "cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout "
    "dtype early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty "
    "finetuning_task forced_bos_token_id forced_eos_token_id id2label initializer_factor "
    "initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length "
    "min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences "
    "output_attentions output_hidden_states output_scores prefix problem_type pruned_heads "
    "remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id "
    "suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder "
    "tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version"
    " typical_p use_bfloat16 use_cache add_cross_attention".split()
)


class CLIPTextConfig(Config):
    """Config in ``text_encoder/config.json``."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 768
    num_hidden_layers: int = Field(12, ge=1, le=200)
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    # our own key: whether the model has a `text_projection`; derived from `architectures`
    with_projection: bool = False

    @model_validator(mode="before")
    @classmethod
    def _relevant(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        projected = "CLIPTextModelWithProjection" in (data.get("architectures") or [])
        return {"with_projection": projected} | {
            k: v for k, v in data.items() if k not in IRRELEVANT
        }


@dataclass(frozen=True)
class TextStates:
    """Output of the text transformer.

    Attributes
    ----------
    layers : tuple of Tensor, each (B, T, D)
        The embeddings, then the state after each block, without the final norm.
    last : Tensor, (B, T, D)
        The last state, with the final norm.
    pooled : Tensor, (B, D) or (B, projection_dim)
        The state at the end-of-text token after the final norm, projected if the model has a
        projection.
    """

    layers: tuple[Tensor, ...]
    last: Tensor
    pooled: Tensor


def _embedding(count: int, width: int) -> nn.Embedding:
    """Build an embedding with normally distributed weights.

    On the meta device no weights are sampled, because torch would import its compiler for sampling
    (1.2 s).
    """
    table = torch.empty(count, width)
    return nn.Embedding(count, width, _weight=table if table.is_meta else table.normal_())


class _Embeddings(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = _embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = _embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return out


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(h.transpose(1, 2).flatten(2))
        return out


class _MLP(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        # 1.702: Hendrycks & Gimpel 2016, section 2
        h = h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h)
        out: Tensor = self.fc2(h)
        return out


class _Layer(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = _SelfAttention(config.hidden_size, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _TextModel(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class CLIPText(nn.Module):
    """Text transformer from token ids (B, T) to :class:`TextStates`.

    Examples
    --------
    >>> tiny = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    >>> net = CLIPText(CLIPTextConfig(vocab_size=10, eos_token_id=9, **tiny))
    >>> net(torch.tensor([[8, 1, 9, 9]])).last.shape
    torch.Size([1, 4, 8])
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = _TextModel(config)
        self.text_projection = (
            nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            if config.with_projection
            else None
        )

    def forward(self, ids: Tensor) -> TextStates:
        """Run all layers; each token attends to itself and to earlier tokens."""
        model = self.text_model
        x = model.embeddings(ids)
        layers = [x]
        for layer in model.encoder.layers:
            x = layer(x)
            layers.append(x)
        last = model.final_layer_norm(x)
        pooled = last[torch.arange(len(ids), device=ids.device), self._ends(ids)]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return TextStates(tuple(layers), last, pooled)

    def _ends(self, ids: Tensor) -> Tensor:
        """Return the position of the end token of each text.

        Old configs have a wrong eos_token_id of 2. For these configs, the end token is the token
        with the highest id.
        """
        if self.config.eos_token_id == 2:
            return ids.argmax(dim=-1)
        return (ids == self.config.eos_token_id).int().argmax(dim=-1)
