//! A decoder of the Llama architecture, in floats and with gradients: RMSNorm, rotary positions by halves, grouped queries, SwiGLU, tied head.
//! Tensor names and shapes are Hugging Face's.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    fused::{self, Heads, Rotation},
};

/// Widths and depths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens.
    pub vocab_size: usize,
    /// Width of a position.
    pub hidden_size: usize,
    /// Width inside the gated layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Positions.
    pub max_position_embeddings: usize,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
}

impl Shape {
    /// The shape of the model that ships.
    #[must_use]
    pub fn shipped() -> Self {
        Self {
            vocab_size: 2048,
            hidden_size: 256,
            intermediate_size: 768,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 256,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
        }
    }

    fn head(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Name and shape of each tensor, the standard deviation of its first values (none: ones).
    #[allow(clippy::cast_precision_loss, reason = "widths are small")]
    fn tensors(&self) -> Vec<(String, Vec<usize>, Option<f64>)> {
        let (d, ffn, kv) = (self.hidden_size, self.intermediate_size, self.head() * self.num_key_value_heads);
        let spread = |fan_in: usize| Some((fan_in as f64).powf(-0.5));
        let last = |fan_in: usize| spread(fan_in).map(|std| std / (2.0 * self.num_hidden_layers as f64).sqrt());
        let mut list = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d], Some(0.02)),
            ("model.norm.weight".to_owned(), vec![d], None),
        ];
        for layer in 0..self.num_hidden_layers {
            for (name, shape, std) in [
                ("input_layernorm", vec![d], None),
                ("self_attn.q_proj", vec![d, d], spread(d)),
                ("self_attn.k_proj", vec![kv, d], spread(d)),
                ("self_attn.v_proj", vec![kv, d], spread(d)),
                ("self_attn.o_proj", vec![d, d], last(d)),
                ("post_attention_layernorm", vec![d], None),
                ("mlp.gate_proj", vec![ffn, d], spread(d)),
                ("mlp.up_proj", vec![ffn, d], spread(d)),
                ("mlp.down_proj", vec![d, ffn], last(ffn)),
            ] {
                list.push((format!("model.layers.{layer}.{name}.weight"), shape, std));
            }
        }
        list
    }
}

/// Keys and values of the positions seen, by layer.
#[derive(Debug, Default)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
}

/// The model.
#[derive(Debug)]
pub struct Llama {
    /// Widths and depths.
    pub shape: Shape,
    /// By Hugging Face's names.
    pub weights: BTreeMap<String, Var>,
    /// Of (position, pair) angles.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Llama {
    /// A model with random weights.
    ///
    /// # Errors
    /// [`TrainError::Tensor`].
    #[allow(clippy::cast_possible_truncation, reason = "weights are f32")]
    pub fn random(shape: Shape, seed: u64) -> Result<Self, TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = BTreeMap::new();
        for (name, dims, std) in shape.tensors() {
            let count = dims.iter().product();
            let values: Vec<f32> = match std {
                // Uniform, of that standard deviation.
                Some(std) => (0..count).map(|_| (rng.random_range(-1.0..1.0) * std * 3f64.sqrt()) as f32).collect(),
                None => vec![1.0; count],
            };
            weights.insert(name, Tensor::from_vec(values, dims, &Device::Cpu)?);
        }
        Self::from_weights(shape, &weights)
    }

    /// A model with these weights.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if a tensor is missing or of another shape.
    pub fn from_weights(shape: Shape, weights: &BTreeMap<String, Tensor>) -> Result<Self, TrainError> {
        let mut vars = BTreeMap::new();
        for (name, dims, _) in shape.tensors() {
            let tensor = weights.get(&name).ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.clone() })?;
            let tensor = tensor.to_dtype(DType::F32)?.reshape(dims)?;
            vars.insert(name, Var::from_tensor(&tensor)?);
        }
        let half = shape.head() / 2;
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "positions and widths are small, tables are f32")]
        let table = |f: fn(f64) -> f64| {
            let angle = |position: usize, pair: usize| position as f64 / shape.rope_theta.powf(pair as f64 / half as f64);
            (0..shape.max_position_embeddings * half).map(|at| f(angle(at / half, at % half)) as f32).collect()
        };
        Ok(Self { cos: table(f64::cos), sin: table(f64::sin), shape, weights: vars })
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.weights.values().map(|var| var.elem_count()).sum()
    }

    /// The last layer's output, normalised, of all rows of (batch x positions) or of those asked for. With a cache, the ids follow those it has
    /// seen, and it grows by them.
    ///
    /// # Errors
    /// [`TrainError::Tensor`], also where the context ends.
    pub fn hidden(&self, ids: &Tensor, mut cache: Option<&mut Cache>, rows: Option<&Tensor>) -> Result<Tensor, TrainError> {
        let (batch, length) = ids.dims2()?;
        let seen = cache.as_ref().and_then(|cache| cache.layers.first()).map_or(Ok(0), |(keys, _)| keys.dim(1))?;
        let half = self.shape.head() / 2;
        if seen + length > self.shape.max_position_embeddings {
            return Err(TrainError::TooLong { found: seen + length, context: self.shape.max_position_embeddings });
        }
        let from_here = |table: &[f32]| table[seen * half..(seen + length) * half].into();
        let rotation = Rotation { cos: from_here(&self.cos), sin: from_here(&self.sin) };
        let key_heads = self.shape.num_key_value_heads;
        let one = Heads { batch, length, key_heads, group: 1, head: self.shape.head() };
        let all = Heads { group: self.shape.num_attention_heads / key_heads, ..one };
        #[allow(clippy::cast_precision_loss, reason = "widths are small")]
        let scale = (self.shape.head() as f32).sqrt().recip();

        let mut x = self.weight("embed_tokens")?.index_select(&ids.flatten_all()?, 0)?;
        for layer in 0..self.shape.num_hidden_layers {
            let part = |name: &str| self.weight(&format!("layers.{layer}.{name}"));
            let normed = self.norm(&x, part("input_layernorm")?)?;
            let q = all.split(&normed.matmul(&part("self_attn.q_proj")?.t()?)?, Some(rotation.clone()))?;
            let mut k = one.split(&normed.matmul(&part("self_attn.k_proj")?.t()?)?, Some(rotation.clone()))?;
            let mut v = one.split(&normed.matmul(&part("self_attn.v_proj")?.t()?)?, None)?;
            if let Some(cache) = cache.as_deref_mut() {
                if let Some((keys, values)) = cache.layers.get(layer) {
                    (k, v) = (Tensor::cat(&[keys, &k], 1)?, Tensor::cat(&[values, &v], 1)?);
                    cache.layers[layer] = (k.clone(), v.clone());
                } else {
                    cache.layers.push((k.clone(), v.clone()));
                }
            }
            let shares = fused::causal_softmax(&q.matmul(&k.t()?)?, scale, seen, length)?;
            let mut attended = all.join(&shares.matmul(&v)?)?;
            // Behind the last attention only the rows asked for matter.
            if let Some(rows) = rows.filter(|_| layer + 1 == self.shape.num_hidden_layers) {
                (x, attended) = (x.index_select(rows, 0)?, attended.index_select(rows, 0)?);
            }
            x = (x + attended.matmul(&part("self_attn.o_proj")?.t()?)?)?;
            let normed = self.norm(&x, part("post_attention_layernorm")?)?;
            let gate_and_up = Tensor::cat(&[part("mlp.gate_proj")?, part("mlp.up_proj")?], 0)?;
            let inner = fused::gated(&normed.matmul(&gate_and_up.t()?)?)?;
            x = (x + inner.matmul(&part("mlp.down_proj")?.t()?)?)?;
        }
        Ok(self.norm(&x, self.weight("norm")?)?)
    }

    /// Logits of rows of [`Llama::hidden`].
    ///
    /// # Errors
    /// [`TrainError::Tensor`].
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor, TrainError> {
        Ok(rows.matmul(&self.weight("embed_tokens")?.t()?)?)
    }

    #[allow(clippy::cast_possible_truncation, reason = "arithmetic is f32")]
    fn norm(&self, x: &Tensor, gain: &Tensor) -> candle_core::Result<Tensor> {
        fused::normalise(x, self.shape.rms_norm_eps as f32)?.broadcast_mul(gain)
    }

    fn weight(&self, name: &str) -> candle_core::Result<&Tensor> {
        let name = format!("model.{name}.weight");
        let var = self.weights.get(&name).ok_or(candle_core::Error::CannotFindTensor { path: name })?;
        Ok(var.as_tensor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Llama {
        let shape = Shape { vocab_size: 50, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, ..Shape::shipped() };
        Llama::random(shape, 1).expect("a model")
    }

    #[test]
    fn one_by_one_with_a_cache_gives_what_all_at_once_gives() {
        let run = || {
            let (model, ids) = (model(), Tensor::new(&[[3_u32, 7, 7, 12, 49], [1, 2, 3, 4, 5]], &Device::Cpu)?);
            let whole = model.hidden(&ids, None, None)?.reshape((2, 5, 32))?;
            let mut cache = Cache::default();
            for position in 0..5 {
                let one = model.hidden(&ids.narrow(1, position, 1)?, Some(&mut cache), None)?;
                let apart = (one - whole.narrow(1, position, 1)?.squeeze(1)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(apart < 1e-5, "position {position}: {apart}");
            }
            Ok::<_, TrainError>(())
        };
        run().expect("runs");
    }

    #[test]
    fn a_later_token_changes_no_earlier_position() {
        let run = || {
            let model = model();
            let first = |last: u32| {
                model
                    .hidden(&Tensor::new(&[[3_u32, 7, last]], &Device::Cpu)?, None, None)?
                    .narrow(0, 0, 2)?
                    .to_vec2::<f32>()
                    .map_err(TrainError::from)
            };
            assert_eq!(first(1)?, first(2)?);
            Ok::<_, TrainError>(())
        };
        run().expect("runs");
    }

    #[test]
    fn a_sequence_longer_than_the_context_is_refused() {
        let ids = Tensor::zeros((1, 257), DType::U32, &Device::Cpu).expect("ids");
        assert!(matches!(model().hidden(&ids, None, None), Err(TrainError::TooLong { found: 257, context: 256 })));
    }
}
