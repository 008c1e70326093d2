//! A Llama-like decoder in floats.

use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{
    ops::{rms_norm, silu, softmax_last_dim},
    rotary_emb::rope,
};
use quern_exact::{
    header::ACTIVATION_GELU_TANH,
    layout::{LayerTensor, TensorName},
};

use super::tensor;
use crate::{
    ModelError,
    source::{DecoderSource, Rope, Scaling, Source, Stored},
};

/// A decoder in f32, angles in f64.
pub struct DecoderReference {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    vocabulary: usize,
    /// 0 is none.
    window: usize,
    eps: f32,
    /// Radians per position of each pair of dims that are rotated.
    frequencies: Vec<f64>,
    /// GELU (tanh), else SiLU.
    gelu: bool,
    /// Multiplied by their scale, where there is one.
    words: Tensor,
    layers: Vec<Layer>,
    final_gain: Tensor,
    /// Transposed.
    head: Tensor,
}

struct Linear {
    /// Transposed: columns first.
    weight: Tensor,
    bias: Option<Tensor>,
}

struct Layer {
    attention_gain: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    head_gains: Option<(Tensor, Tensor)>,
    output: Linear,
    ffn_gain: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// What a decoder makes of a sequence, one row per id.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderRows {
    /// The final norm of the residual stream behind each layer; the last is what logits are made of.
    pub layers: Vec<Vec<Vec<f32>>>,
    /// Logits.
    pub logits: Vec<Vec<f32>>,
}

impl DecoderReference {
    /// Loads a Hugging Face folder or a GGUF file.
    ///
    /// # Errors
    /// As importing it.
    pub fn open(from: &Path) -> std::result::Result<Self, ModelError> {
        match Source::read(from)? {
            Source::Decoder(source) => Self::load(&source),
            Source::Encoder(_) => Err(ModelError::Family { path: from.to_owned(), needed: "a decoder", found: "an encoder" }),
        }
    }

    fn load(source: &DecoderSource) -> std::result::Result<Self, ModelError> {
        let config = &source.config;
        let [vocabulary, dim, ffn, heads, kv_heads, head_dim] =
            [config.vocabulary, config.dim, config.ffn, config.heads, config.kv_heads, config.head_dim].map(|n| n as usize);
        let failed =
            |error: candle_core::Error| ModelError::Reference { doing: "arranging the weights".to_owned(), reason: error.to_string() };
        let load = |name: TensorName, suffix: &str, shape: &[usize]| {
            let Some(Stored { name: stored, first, of }) = source.stored(name) else {
                return Err(ModelError::Header { reason: format!("{name} is in no checkpoint of a decoder") });
            };
            let checkpoint_shape = [&[of.unwrap_or(shape[0])], &shape[1..]].concat();
            tensor(&source.tensors.rows(&format!("{stored}{suffix}"), &checkpoint_shape, first..first + shape[0])?)
        };
        let load_gain = |name: TensorName, len: usize| {
            let stored = load(name, "", &[len])?;
            if config.gains_less_one { (stored + 1.0).map_err(failed) } else { Ok(stored) }
        };
        let transposed = |name, rows, columns| load(name, ".weight", &[rows, columns])?.t().and_then(|w| w.contiguous()).map_err(failed);
        let layer = |layer: u32| {
            let at = |tensor| TensorName::Layer(layer, tensor);
            let linear = |tensor, rows, columns| {
                let bias = if source.has_bias(at(tensor)) { Some(load(at(tensor), ".bias", &[rows])?) } else { None };
                Ok::<_, ModelError>(Linear { weight: transposed(at(tensor), rows, columns)?, bias })
            };
            let gain = |tensor, len| load_gain(at(tensor), len);
            Ok(Layer {
                attention_gain: gain(LayerTensor::AttentionGain, dim)?,
                query: linear(LayerTensor::Query, heads * head_dim, dim)?,
                key: linear(LayerTensor::Key, kv_heads * head_dim, dim)?,
                value: linear(LayerTensor::Value, kv_heads * head_dim, dim)?,
                head_gains: if config.qk_norm {
                    Some((gain(LayerTensor::QueryGain, head_dim)?, gain(LayerTensor::KeyGain, head_dim)?))
                } else {
                    None
                },
                output: linear(LayerTensor::Output, dim, heads * head_dim)?,
                ffn_gain: gain(LayerTensor::FfnGain, dim)?,
                gate: linear(LayerTensor::Gate, ffn, dim)?,
                up: linear(LayerTensor::Up, ffn, dim)?,
                down: linear(LayerTensor::Down, dim, ffn)?,
            })
        };
        let words = load(TensorName::Words, ".weight", &[vocabulary, dim])?;
        #[expect(clippy::cast_precision_loss, reason = "a dim is below 2^24")]
        let scale = if config.scaled_words { (dim as f64).sqrt() } else { 1.0 };
        Ok(Self {
            heads,
            kv_heads,
            head_dim,
            context: config.context as usize,
            vocabulary,
            window: config.window as usize,
            eps: config.eps_text.parse().unwrap_or_default(),
            frequencies: frequencies(&config.rope, config.rotary_dims),
            gelu: config.activation == ACTIVATION_GELU_TANH,
            words: (words * scale).map_err(failed)?,
            layers: (0..config.layers).map(layer).collect::<std::result::Result<_, ModelError>>()?,
            final_gain: load_gain(TensorName::FinalGain, dim)?,
            head: transposed(if config.tied { TensorName::Words } else { TensorName::Head }, vocabulary, dim)?,
        })
    }

    /// Computes all ids in one pass.
    ///
    /// # Errors
    /// [`ModelError::Reference`] for ids that the exact machine computes nothing of, or if candle fails.
    pub fn rows(&self, ids: &[u32]) -> std::result::Result<DecoderRows, ModelError> {
        let failed = |reason: String| ModelError::Reference { doing: format!("computing {} ids", ids.len()), reason };
        if ids.is_empty() || ids.len() > self.context || ids.iter().any(|id| *id as usize >= self.vocabulary) {
            return Err(failed("no ids, more than the context, or one outside of the vocabulary".to_owned()));
        }
        self.forward(ids).map_err(|error| failed(error.to_string()))
    }

    fn forward(&self, ids: &[u32]) -> Result<DecoderRows> {
        let (cos, sin) = self.angles(ids.len())?;
        let mask = self.mask(ids.len())?;
        let mut x = self.words.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let h = rms_norm(&x, &layer.attention_gain, self.eps)?;
            x = (&x + layer.output.apply(&self.attend(layer, &h, &cos, &sin, &mask)?)?)?;
            let h = rms_norm(&x, &layer.ffn_gain, self.eps)?;
            let gate = layer.gate.apply(&h)?;
            // candle's gelu is the one by tanh.
            let gated = ((if self.gelu { gate.gelu()? } else { silu(&gate)? }) * layer.up.apply(&h)?)?;
            x = (&x + layer.down.apply(&gated)?)?;
            layers.push(rms_norm(&x, &self.final_gain, self.eps)?.to_vec2()?);
        }
        let logits = rms_norm(&x, &self.final_gain, self.eps)?.matmul(&self.head)?.to_vec2()?;
        Ok(DecoderRows { layers, logits })
    }

    fn attend(&self, layer: &Layer, h: &Tensor, cos: &Tensor, sin: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let rows = h.dim(0)?;
        let split =
            |linear: &Linear, heads: usize| linear.apply(h)?.reshape((1, rows, heads, self.head_dim))?.transpose(1, 2)?.contiguous();
        let (mut q, mut k, v) = (split(&layer.query, self.heads)?, split(&layer.key, self.kv_heads)?, split(&layer.value, self.kv_heads)?);
        if let Some((query, key)) = &layer.head_gains {
            q = rms_norm(&q, query, self.eps)?;
            k = rms_norm(&k, key, self.eps)?;
        }
        let (q, k) = (self.turn(&q, cos, sin)?, self.turn(&k, cos, sin)?);
        let group = self.heads / self.kv_heads;
        // Each kv head serves the query heads of its group.
        let repeat = |x: Tensor| {
            let (_, heads, rows, dim) = x.dims4()?;
            x.unsqueeze(2)?.expand((1, heads, group, rows, dim))?.reshape((1, heads * group, rows, dim))?.contiguous()
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        #[expect(clippy::cast_precision_loss, reason = "a head has at most 256 dims")]
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let scores = (q.matmul(&k.transpose(D::Minus1, D::Minus2)?.contiguous()?)? * scale)?.broadcast_add(mask)?;
        softmax_last_dim(&scores)?.matmul(&v)?.transpose(1, 2)?.reshape((rows, self.heads * self.head_dim))
    }

    /// Rotates the first dims of each head.
    fn turn(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let turned = 2 * self.frequencies.len();
        if turned == self.head_dim {
            return rope(x, cos, sin);
        }
        let first = rope(&x.narrow(D::Minus1, 0, turned)?.contiguous()?, cos, sin)?;
        Tensor::cat(&[&first, &x.narrow(D::Minus1, turned, self.head_dim - turned)?], D::Minus1)
    }

    /// Cosines and sines of the first positions, rows of rotary dims / 2.
    fn angles(&self, rows: usize) -> Result<(Tensor, Tensor)> {
        #[expect(clippy::cast_precision_loss, reason = "a position is below 2^15")]
        let angles: Vec<f64> = (0..rows).flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f)).collect();
        let angles = Tensor::from_vec(angles, (rows, self.frequencies.len()), &Device::Cpu)?;
        Ok((angles.cos()?.to_dtype(DType::F32)?, angles.sin()?.to_dtype(DType::F32)?))
    }

    /// Minus infinity where a position does not see another.
    fn mask(&self, rows: usize) -> Result<Tensor> {
        let seen = |p: usize, j: usize| j <= p && (self.window == 0 || j + self.window > p);
        let mask = (0..rows).flat_map(|p| (0..rows).map(move |j| if seen(p, j) { 0.0 } else { f32::NEG_INFINITY })).collect::<Vec<_>>();
        Tensor::from_vec(mask, (rows, rows), &Device::Cpu)
    }
}

#[expect(clippy::cast_precision_loss, reason = "decimals of at most 18 digits")]
fn frequencies(rope: &Rope, dims: u32) -> Vec<f64> {
    let number = |decimal: crate::convert::Decimal| decimal.fraction().0 as f64 / decimal.fraction().1 as f64;
    let plain = |i: u32| number(rope.theta).powf(-f64::from(2 * i) / f64::from(dims));
    let scaled = |(i, f): (u32, f64)| match &rope.scaling {
        Scaling::None => f,
        Scaling::Linear { factor } => f / number(*factor),
        Scaling::Divisors(divisors) => f / divisors.get(i as usize).map_or(1.0, |bits| f64::from(f32::from_bits(*bits))),
        Scaling::Llama3 { factor, low, high, original } => {
            let (factor, low, high, length) = (number(*factor), number(*low), number(*high), f64::from(*original));
            let wave = std::f64::consts::TAU / f;
            let smooth = ((length / wave - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - smooth) * f / factor + smooth * f
        }
    };
    (0..dims / 2).map(|i| scaled((i, plain(i)))).collect()
}

impl Linear {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.contiguous()?.matmul(&self.weight)?;
        self.bias.as_ref().map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))
    }
}

impl std::fmt::Debug for DecoderReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DecoderReference({} layers)", self.layers.len())
    }
}
