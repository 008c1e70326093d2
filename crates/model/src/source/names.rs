//! How checkpoints call the tensors of a decoder, and where in them ours lie.

use quern_exact::layout::{LayerTensor, TensorName};

use super::decoder::DecoderConfig;

/// How a checkpoint calls its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// As transformers does, behind a prefix: checkpoints of the bare model have none.
    Transformers(&'static str),
    /// As llama.cpp does.
    Gguf,
}

/// Where a tensor of ours lies: all rows of a tensor of a checkpoint, or some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Of a matrix, without its `.weight` and `.bias`.
    pub(crate) name: String,
    /// The first row.
    pub(crate) first: usize,
    /// All rows of the checkpoint's tensor; `None` if ours is the whole of it.
    pub(crate) of: Option<usize>,
}

impl Names {
    /// `None` for those that an import computes, and those that no decoder has.
    pub(super) fn stored(self, config: &DecoderConfig, name: TensorName) -> Option<Stored> {
        let whole = |name: String| Some(Stored { name, first: 0, of: None });
        let TensorName::Layer(layer, tensor) = name else {
            return whole(self.outside(name)?);
        };
        match self {
            Self::Transformers(prefix) if config.fused => fused(config, &format!("{prefix}layers.{layer}"), tensor)
                .or_else(|| whole(format!("{prefix}layers.{layer}.{}", transformers(tensor)?))),
            Self::Transformers(prefix) => whole(format!("{prefix}layers.{layer}.{}", transformers(tensor)?)),
            Self::Gguf => whole(format!("blk.{layer}.{}", gguf(tensor)?)),
        }
    }

    /// Of the tensors that are in no layer.
    fn outside(self, name: TensorName) -> Option<String> {
        Some(match (self, name) {
            (Self::Transformers(prefix), TensorName::Words) => format!("{prefix}embed_tokens"),
            (Self::Transformers(prefix), TensorName::FinalGain) => format!("{prefix}norm.weight"),
            (Self::Transformers(_), TensorName::Head) => "lm_head".to_owned(),
            (Self::Gguf, TensorName::Words) => "token_embd".to_owned(),
            (Self::Gguf, TensorName::FinalGain) => "output_norm.weight".to_owned(),
            (Self::Gguf, TensorName::Head) => "output".to_owned(),
            _ => return None,
        })
    }
}

/// Phi-3's matrices: query, key and value one below the other in one, gate and up in another.
fn fused(config: &DecoderConfig, layer: &str, tensor: LayerTensor) -> Option<Stored> {
    let [heads, kv_heads, head_dim, ffn] = [config.heads, config.kv_heads, config.head_dim, config.ffn].map(|n| n as usize);
    let (query, key) = (heads * head_dim, kv_heads * head_dim);
    let (name, first, of) = match tensor {
        LayerTensor::Query => ("self_attn.qkv_proj", 0, query + 2 * key),
        LayerTensor::Key => ("self_attn.qkv_proj", query, query + 2 * key),
        LayerTensor::Value => ("self_attn.qkv_proj", query + key, query + 2 * key),
        LayerTensor::Gate => ("mlp.gate_up_proj", 0, 2 * ffn),
        LayerTensor::Up => ("mlp.gate_up_proj", ffn, 2 * ffn),
        _ => return None,
    };
    Some(Stored { name: format!("{layer}.{name}"), first, of: Some(of) })
}

fn transformers(tensor: LayerTensor) -> Option<&'static str> {
    Some(match tensor {
        LayerTensor::Query => "self_attn.q_proj",
        LayerTensor::Key => "self_attn.k_proj",
        LayerTensor::Value => "self_attn.v_proj",
        LayerTensor::QueryGain => "self_attn.q_norm.weight",
        LayerTensor::KeyGain => "self_attn.k_norm.weight",
        LayerTensor::Output => "self_attn.o_proj",
        LayerTensor::AttentionGain => "input_layernorm.weight",
        LayerTensor::FfnGain => "post_attention_layernorm.weight",
        LayerTensor::Gate => "mlp.gate_proj",
        LayerTensor::Up => "mlp.up_proj",
        LayerTensor::Down => "mlp.down_proj",
        LayerTensor::AttentionBias | LayerTensor::FfnBias => return None,
    })
}

fn gguf(tensor: LayerTensor) -> Option<&'static str> {
    Some(match tensor {
        LayerTensor::Query => "attn_q",
        LayerTensor::Key => "attn_k",
        LayerTensor::Value => "attn_v",
        LayerTensor::QueryGain => "attn_q_norm.weight",
        LayerTensor::KeyGain => "attn_k_norm.weight",
        LayerTensor::Output => "attn_output",
        LayerTensor::AttentionGain => "attn_norm.weight",
        LayerTensor::FfnGain => "ffn_norm.weight",
        LayerTensor::Gate => "ffn_gate",
        LayerTensor::Up => "ffn_up",
        LayerTensor::Down => "ffn_down",
        LayerTensor::AttentionBias | LayerTensor::FfnBias => return None,
    })
}
