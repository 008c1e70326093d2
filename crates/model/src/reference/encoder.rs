//! The same encoder in floats, with candle, from the checkpoint's own weights. For comparison only: nothing that is paid for, hashed
//! or compared for equality comes from here.

use std::path::Path;

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use quern_exact::layout::{LayerTensor, TensorName};

use super::tensor;
use crate::{
    ModelError,
    source::{EncoderSource, Pooling, Source, TensorSource as _},
};

/// A BERT encoder in f32.
pub struct Reference {
    dim: usize,
    heads: usize,
    context: usize,
    vocabulary: usize,
    eps: f32,
    pooling: Pooling,
    words: Tensor,
    positions: Tensor,
    token_type: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Norm {
    gain: Tensor,
    bias: Tensor,
}

struct Linear {
    /// Transposed: columns first.
    weight: Tensor,
    bias: Tensor,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    ffn_norm: Norm,
}

impl Reference {
    /// Loads a Hugging Face folder.
    ///
    /// # Errors
    /// As importing the folder: missing or corrupt files, other arithmetic, tensors that are missing or have another shape.
    pub fn open(folder: &Path) -> std::result::Result<Self, ModelError> {
        let source = match Source::read(folder)? {
            Source::Encoder(source) => source,
            Source::Decoder(_) => return Err(ModelError::Family { path: folder.to_owned(), needed: "an encoder", found: "a decoder" }),
        };
        Self::load(&source)
    }

    fn load(source: &EncoderSource) -> std::result::Result<Self, ModelError> {
        let config = &source.config;
        let [vocabulary, dim, ffn, context, types] =
            [config.vocabulary, config.dim, config.ffn, config.context, config.token_types].map(|n| n as usize);
        let load = |name: TensorName, suffix: &str, shape: &[usize]| {
            let name = source.checkpoint_name(name).unwrap_or_default();
            tensor(&source.tensors.floats(&format!("{name}{suffix}"), shape)?)
        };
        let norm = |gain, bias| Ok::<_, ModelError>(Norm { gain: load(gain, "", &[dim])?, bias: load(bias, "", &[dim])? });
        let failed =
            |error: candle_core::Error| ModelError::Reference { doing: "arranging the weights".to_owned(), reason: error.to_string() };
        let linear = |name, rows, columns| {
            let weight = load(name, ".weight", &[rows, columns])?;
            let weight = weight.t().and_then(|weight| weight.contiguous()).map_err(failed)?;
            Ok::<_, ModelError>(Linear { weight, bias: load(name, ".bias", &[rows])? })
        };
        let layers = (0..config.layers)
            .map(|layer| {
                let at = |tensor| TensorName::Layer(layer, tensor);
                Ok(Layer {
                    query: linear(at(LayerTensor::Query), dim, dim)?,
                    key: linear(at(LayerTensor::Key), dim, dim)?,
                    value: linear(at(LayerTensor::Value), dim, dim)?,
                    output: linear(at(LayerTensor::Output), dim, dim)?,
                    attention_norm: norm(at(LayerTensor::AttentionGain), at(LayerTensor::AttentionBias))?,
                    up: linear(at(LayerTensor::Up), ffn, dim)?,
                    down: linear(at(LayerTensor::Down), dim, ffn)?,
                    ffn_norm: norm(at(LayerTensor::FfnGain), at(LayerTensor::FfnBias))?,
                })
            })
            .collect::<std::result::Result<_, ModelError>>()?;
        let types = load(TensorName::TokenTypes, "", &[types, dim])?;
        Ok(Self {
            dim,
            heads: config.heads as usize,
            context,
            vocabulary,
            eps: config.eps_text.parse().unwrap_or_default(),
            pooling: config.pooling,
            words: load(TensorName::Words, ".weight", &[vocabulary, dim])?,
            positions: load(TensorName::Positions, "", &[context, dim])?,
            token_type: types.get(0).map_err(failed)?,
            norm: norm(TensorName::EmbeddingGain, TensorName::EmbeddingBias)?,
            layers,
        })
    }

    /// The embedding of ids, of unit length. The ids must be a result that the exact machine computes: not empty, within context and
    /// vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Reference`] for other ids, or if candle fails.
    pub fn embed(&self, ids: &[u32]) -> std::result::Result<Vec<f32>, ModelError> {
        let failed = |reason: String| ModelError::Reference { doing: format!("embedding {} ids", ids.len()), reason };
        if ids.is_empty() || ids.len() > self.context || ids.iter().any(|id| *id as usize >= self.vocabulary) {
            return Err(failed("no ids, more than the context, or one outside of the vocabulary".to_owned()));
        }
        self.forward(ids).map_err(|error| failed(error.to_string()))
    }

    fn forward(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let positions = self.positions.narrow(0, 0, ids.elem_count())?;
        let embedded = self.words.index_select(&ids, 0)?.add(&positions)?.broadcast_add(&self.token_type)?;
        let mut x = self.norm.apply(&embedded, self.eps)?;
        for layer in &self.layers {
            let mixed = layer.output.apply(&self.attend(layer, &x)?)?;
            x = layer.attention_norm.apply(&(x + mixed)?, self.eps)?;
            let inner = layer.down.apply(&layer.up.apply(&x)?.gelu_erf()?)?;
            x = layer.ffn_norm.apply(&(x + inner)?, self.eps)?;
        }
        let pooled = match self.pooling {
            Pooling::Mean => x.mean(0)?,
            Pooling::First => x.get(0)?,
        };
        let length = pooled.sqr()?.sum_all()?.sqrt()?;
        pooled.broadcast_div(&length)?.to_vec1()
    }

    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let head_dim = self.dim / self.heads;
        let heads = |linear: &Linear| linear.apply(x)?.reshape((rows, self.heads, head_dim))?.transpose(0, 1)?.contiguous();
        let (q, k, v) = (heads(&layer.query)?, heads(&layer.key)?, heads(&layer.value)?);
        #[expect(clippy::cast_precision_loss, reason = "a head has at most 256 dims")]
        let scale = 1.0 / (head_dim as f64).sqrt();
        let scores = (q.matmul(&k.transpose(D::Minus1, D::Minus2)?.contiguous()?)? * scale)?;
        softmax_last_dim(&scores)?.matmul(&v)?.transpose(0, 1)?.reshape((rows, self.dim))
    }
}

impl Norm {
    fn apply(&self, x: &Tensor, eps: f32) -> Result<Tensor> {
        layer_norm(&x.contiguous()?, &self.gain, &self.bias, eps)
    }
}

impl Linear {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reference({} layers of {})", self.layers.len(), self.dim)
    }
}
