"""SR3AI: region-masked 3D attention (paper, section 3.3), exact and without a mask.

Visual tokens attend to all visual tokens and to the text of the conditions they hear; the text of a condition attends
to itself and to the visual tokens that hear it; texts never attend to each other. Nearly all of that is unmasked: all
visual tokens attend to each other in one call of a fused kernel. Tokens that hear the same conditions form a group, and
each group attends to its conditions' text; the two results are merged by their log-sum-exps, which is the same softmax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb

from engine.parallel import SequenceParallel
from engine.regions import RegionMap

SHORT = 2048  # tokens, up to which scores may stand in memory


def region_attention(
    q_BHLD: torch.Tensor, k_BHLD: torch.Tensor, v_BHLD: torch.Tensor, regions: RegionMap
) -> torch.Tensor:
    """Attention over [text of all conditions | visual tokens], shape (B, H, L, D); gradients flow.

    Peak extra memory is one copy of the visual queries and one of the result; no (L, L) array exists.
    """
    text, width = regions.text_length, regions.text_tokens
    q_text, q_visual = q_BHLD[:, :, :text], q_BHLD[:, :, text:].index_select(2, regions.order)
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHLD, k_BHLD, v_BHLD))
    visual = (_group_by_group if learning else _merged)(q_visual, k_BHLD, v_BHLD, regions)
    out_text = []
    for condition, listeners in enumerate(regions.listeners):
        own = slice(condition * width, (condition + 1) * width)
        k = torch.cat([k_BHLD[:, :, own], k_BHLD[:, :, text:].index_select(2, listeners)], 2)
        v = torch.cat([v_BHLD[:, :, own], v_BHLD[:, :, text:].index_select(2, listeners)], 2)
        out_text.append(F.scaled_dot_product_attention(q_text[:, :, own], k, v))
    return torch.cat([*out_text, visual.index_select(2, regions.inverse_order)], 2)


def _merged(q_visual: torch.Tensor, k_BHLD: torch.Tensor, v_BHLD: torch.Tensor, regions: RegionMap) -> torch.Tensor:
    """What the visual queries, in the groups' order, see: visual tokens and text apart, then merged. With sums of
    exponentials e^a and e^b the first counts e^a / (e^a + e^b) = sigmoid(a - b)."""
    text = regions.text_length
    out, visual_lse = _with_lse(q_visual, k_BHLD[:, :, text:], v_BHLD[:, :, text:])
    for start, end, conditions in regions.groups:
        if not conditions:
            continue
        k, v = (_text_of(conditions, x, regions) for x in (k_BHLD, v_BHLD))
        heard, text_lse = _with_lse(q_visual[:, :, start:end], k, v)
        share = torch.sigmoid(visual_lse[:, :, start:end] - text_lse).unsqueeze(-1)
        seen = out[:, :, start:end]
        seen.copy_(torch.lerp(heard.to(share.dtype), seen.to(share.dtype), share))
    return out


def _with_lse(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention, and the log-sum-exp of each query's scores (B, H, L) in float32 or better. These are the kernels that
    scaled_dot_product_attention chooses from; it keeps the second result to itself."""
    ops = torch.ops.aten
    if q.device.type == "cpu":
        return ops._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    if q.dtype == torch.float32:
        out, lse = ops._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
        return out, lse[:, :, : q.shape[2]]
    return ops._scaled_dot_product_flash_attention(q, k, v)[:2]


def _group_by_group(
    q_visual: torch.Tensor, k_BHLD: torch.Tensor, v_BHLD: torch.Tensor, regions: RegionMap
) -> torch.Tensor:
    """The same for learning, since the kernels give no gradient through the log-sum-exp: each group attends to
    [all visual keys | its conditions' text keys]."""
    text, out = regions.text_length, []
    for start, end, conditions in regions.groups:
        k, v = (torch.cat([x[:, :, text:], _text_of(conditions, x, regions)], 2) for x in (k_BHLD, v_BHLD))
        out.append(F.scaled_dot_product_attention(q_visual[:, :, start:end], k, v))
    return torch.cat(out, 2)


def _text_of(conditions: tuple[int, ...], x_BHLD: torch.Tensor, regions: RegionMap) -> torch.Tensor:
    """The conditions' text keys (or values), (B, H, len(conditions) * text_tokens, D)."""
    width = regions.text_tokens
    texts = [x_BHLD[:, :, c * width : (c + 1) * width] for c in conditions]
    return torch.cat(texts, 2) if texts else x_BHLD[:, :, :0]


class RegionAttnProcessor:
    """CogVideoX's attention with an optional region map, given by `attention_kwargs={"region_map": ...}`.

    Without a map it is CogVideoX's own attention. Rotary embedding (5B) is applied to visual queries and keys alone.
    With "sequence" this worker holds some of the visual tokens, and attends from all of them for some of the heads: so
    groups of regions and the rotary table stay whole.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        region_map: RegionMap | None = None,
        sequence: SequenceParallel | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_states (B, visual, C) and encoder_hidden_states (B, text, C) -> the same shapes."""
        text = encoder_hidden_states.shape[1]
        x_BLC = torch.cat([encoder_hidden_states, hidden_states], 1)
        q, k, v = (
            proj(x_BLC).unflatten(2, (attn.heads, -1)).transpose(1, 2) for proj in (attn.to_q, attn.to_k, attn.to_v)
        )
        if attn.norm_q is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        k, v = k.to(q.dtype), v.to(q.dtype)
        if sequence is not None:
            q, k, v = (sequence.heads_of_all_tokens(x, text) for x in (q, k, v))
        if image_rotary_emb is not None:
            q = torch.cat([q[:, :, :text], apply_rotary_emb(q[:, :, text:], image_rotary_emb)], 2)
            k = torch.cat([k[:, :, :text], apply_rotary_emb(k[:, :, text:], image_rotary_emb)], 2)
        out = self.attend(q, k, v, region_map)
        if sequence is not None:
            out = sequence.tokens_of_all_heads(out, text)
        out = out.transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out[:, text:], out[:, :text]

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, region_map: RegionMap | None) -> torch.Tensor:
        if region_map is not None:
            return region_attention(q, k, v, region_map)
        if q.device.type == "cpu" and q.requires_grad and q.shape[2] <= SHORT:
            return attention_to_learn_through(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)


def attention_to_learn_through(
    q_BHLD: torch.Tensor, k_BHLD: torch.Tensor, v_BHLD: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention by plain products, with an additive mask (B, 1, L, L) or none, for learning on a CPU.

    Forth and back it was 1.8 times as fast as the fused kernel for 768 tokens, as long as the scores stay in the
    processor's cache: so one sample at a time. The softmax is taken at autocast's own precision.
    """
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
        q_BHLD, k_BHLD, v_BHLD = (x.to(half) for x in (q_BHLD, k_BHLD, v_BHLD))
    scale, out = q_BHLD.shape[3] ** -0.5, []
    with torch.autocast("cpu", enabled=False):
        for n in range(len(q_BHLD)):
            scores = (q_BHLD[n] * scale) @ k_BHLD[n].transpose(1, 2)
            out.append((scores if mask is None else scores + mask[n]).softmax(2) @ v_BHLD[n])
    return torch.stack(out)
