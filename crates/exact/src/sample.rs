//! Deterministic random models for tests (feature `test-support`). Not part of the profile: nothing here is hashed anywhere but in tests.

use crate::{
    bounds::{GROUP, ROW_SHIFT_MIN},
    decoder::{DecoderWeights, Model},
    encoder::{Encoder, EncoderWeights},
    format::{FormatError, Q8Matrix, TableI32, VectorI32},
    header::{self, Header, NO_ID, flag},
    layout::{Tensor, TensorName, TensorShape, TensorSpec, WeightsError, tensor_specs},
};

/// SplitMix64: the same numbers on every machine, for ever.
#[derive(Debug, Clone)]
pub struct Generator(u64);

impl Generator {
    /// A stream of numbers for this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `low..=high`.
    ///
    /// # Panics
    /// If `low` is greater than `high`.
    pub fn within(&mut self, low: i64, high: i64) -> i64 {
        assert!(low <= high, "an empty range has no number");
        let span = i128::from(high) - i128::from(low) + 1;
        let offset = (i128::from(self.next_u64()) * span) >> 64;
        i64::try_from(i128::from(low) + offset).unwrap_or(low)
    }

    fn i32s(&mut self, len: usize, low: i32, high: i32) -> Vec<i32> {
        (0..len).map(|_| i32::try_from(self.within(i64::from(low), i64::from(high))).unwrap_or(0)).collect()
    }
}

/// A small encoder's header: 2 layers, dim 48, 3 heads of 16, ffn 144 (a ragged second group), context 24, vocabulary 100.
#[must_use]
pub fn small_header() -> Header {
    Header {
        profile: header::PROFILE_Q8A16,
        family: header::FAMILY_ENCODER,
        vocabulary: 100,
        dim: 48,
        layers: 2,
        heads: 3,
        kv_heads: 3,
        head_dim: 16,
        ffn: 144,
        context: 24,
        window: 0,
        // round(1e-12 · 48 · 2^28) = 0
        epsilon: 0,
        // round(log2(e) / sqrt(16) · 2^24)
        score_scale: 6_051_102,
        norm: header::NORM_LAYER,
        activation: header::ACTIVATION_GELU_ERF,
        flags: flag::QKV_BIAS | flag::OUTPUT_BIAS | flag::POST_NORM | flag::LEARNED_POSITIONS,
        pooling: header::POOLING_MEAN,
        token_types: 2,
        prefix_id: NO_ID,
        padding_id: NO_ID,
        stop_ids: [NO_ID; 8],
        embedding_scale: 0,
        attention_soft_cap: 0,
        logit_soft_cap: 0,
        rotary_dims: 0,
        window_pattern: 0,
        reserved: [0; 6],
    }
}

/// The header of all-MiniLM-L6-v2: 6 layers, dim 384, 12 heads of 32, ffn 1536, context 512, vocabulary 30,522.
#[must_use]
pub fn minilm_header() -> Header {
    Header {
        vocabulary: 30_522,
        dim: 384,
        layers: 6,
        heads: 12,
        kv_heads: 12,
        head_dim: 32,
        ffn: 1536,
        context: 512,
        // round(log2(e) / sqrt(32) · 2^24)
        score_scale: 4_278_775,
        ..small_header()
    }
}

/// A small decoder's header: 2 layers, dim 48, 4 heads of 12 over 2 kv heads, all of their dims rotary, ffn 144 (a ragged second group),
/// context 40, vocabulary 100, own head.
#[must_use]
pub fn small_decoder_header() -> Header {
    Header {
        family: header::FAMILY_DECODER,
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        context: 40,
        // round(1e-5 · 48 · 2^28)
        epsilon: 128_849,
        // round(log2(e) / sqrt(12) · 2^24)
        score_scale: 6_987_212,
        norm: header::NORM_RMS,
        activation: header::ACTIVATION_SILU,
        flags: flag::GATED_FFN | flag::CAUSAL,
        pooling: header::POOLING_NONE,
        token_types: 0,
        rotary_dims: 12,
        ..small_header()
    }
}

/// The header of a Llama of this shape, with a tied head and all dims of a head rotary.
#[must_use]
pub fn decoder_header(layers: u32, dim: u32, [heads, kv_heads, head_dim]: [u32; 3], ffn: u32, vocabulary: u32, context: u32) -> Header {
    // round(log2(e) / sqrt(head dim) · 2^24) = sqrt(log2(e)² · 2^96 / head dim) / 2^24, log2(e) in Q30.
    let scale = ((1_549_082_005u128 << 18).pow(2) / u128::from(head_dim.max(1))).isqrt();
    Header {
        vocabulary,
        dim,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn,
        context,
        // About 1e-5 · dim · 2^28.
        epsilon: u64::from(dim) * 2684,
        score_scale: u32::try_from((scale + (1 << 23)) >> 24).unwrap_or(u32::MAX),
        flags: flag::GATED_FFN | flag::CAUSAL | flag::TIED_HEAD,
        rotary_dims: head_dim,
        ..small_decoder_header()
    }
}

/// The headers of the three shapes that speed is measured on: 'a' SmolLM2 135M, 'b' Qwen2.5 0.5B, 'c' Llama 3.2 1B (1.24e9 weights);
/// `None` for another letter.
#[must_use]
pub fn bench_header(shape: char, context: u32) -> Option<Header> {
    match shape {
        'a' => Some(decoder_header(30, 576, [9, 3, 64], 1536, 49_152, context)),
        'b' => Some(decoder_header(24, 896, [14, 2, 64], 4864, 151_936, context)),
        'c' => Some(decoder_header(16, 2048, [32, 8, 64], 8192, 128_256, context)),
        _ => None,
    }
}

/// A matrix with weights over their whole range and realistic magnitudes, about `2^-5`.
///
/// # Errors
/// The shape is out of bounds.
pub fn matrix(generator: &mut Generator, rows: usize, cols: usize, bias: bool) -> Result<Q8Matrix, FormatError> {
    let elements = rows.saturating_mul(cols);
    let weights = (0..elements).map(|_| i8::try_from(generator.within(-127, 127)).unwrap_or(0)).collect::<Vec<_>>();
    let mantissas = (0..rows * cols.div_ceil(GROUP)).map(|_| u16::try_from(generator.within(1 << 15, 65_535)).unwrap_or(1)).collect();
    let shifts = (0..rows).map(|_| u8::try_from(generator.within(26, 28)).unwrap_or(ROW_SHIFT_MIN)).collect();
    let bias = bias.then(|| generator.i32s(rows, -4096, 4096));
    Q8Matrix::new(rows, cols, weights, mantissas, shifts, bias)
}

/// Random weights that fit the header; the same for the same seed, for ever.
///
/// # Errors
/// The header is invalid or unsupported.
pub fn weights(header: &Header, seed: u64) -> Result<EncoderWeights, WeightsError> {
    let mut generator = Generator::new(seed);
    let tensors = tensor_specs(header)?.into_iter().map(|spec| tensor(&mut generator, spec.name, spec.shape));
    EncoderWeights::from_tensors(header, tensors.collect::<Vec<_>>())
}

/// An encoder of random weights.
///
/// # Errors
/// As [`weights`].
pub fn encoder(header: &Header, seed: u64) -> Result<Encoder, WeightsError> {
    Encoder::new(header.clone(), weights(header, seed)?)
}

/// As [`matrix`] without bias, made eight weights at a time: a billion in about a second.
///
/// # Errors
/// The shape is out of bounds.
pub fn quick_matrix(generator: &mut Generator, rows: usize, cols: usize) -> Result<Q8Matrix, FormatError> {
    let elements = rows.saturating_mul(cols);
    let mut weights = Vec::with_capacity(elements.next_multiple_of(8));
    while weights.len() < elements {
        weights.extend(generator.next_u64().to_le_bytes().map(|byte| byte.cast_signed().max(-127)));
    }
    weights.truncate(elements);
    let mantissas = (0..rows * cols.div_ceil(GROUP)).map(|_| u16::try_from(generator.within(1 << 15, 65_535)).unwrap_or(1)).collect();
    let shifts = (0..rows).map(|_| u8::try_from(generator.within(26, 28)).unwrap_or(ROW_SHIFT_MIN)).collect();
    Q8Matrix::new(rows, cols, weights, mantissas, shifts, None)
}

/// Random decoder weights that fit the header; the same for the same seed, for ever. Cosines and sines are any numbers between -1 and 1.
///
/// # Errors
/// The header is invalid or unsupported.
pub fn decoder_weights(header: &Header, seed: u64) -> Result<DecoderWeights, WeightsError> {
    let mut generator = Generator::new(seed);
    let tensors = tensor_specs(header)?.into_iter().map(|spec| decoder_tensor(&mut generator, spec));
    DecoderWeights::from_tensors(header, tensors.collect::<Vec<_>>())
}

/// The next tensor of [`decoder_weights`], for who does not want all of them in memory. `spec` is one of a valid header's.
#[must_use]
pub fn decoder_tensor(generator: &mut Generator, spec: TensorSpec) -> Tensor {
    match (spec.name, spec.shape) {
        (_, TensorShape::Matrix { rows, cols, bias: false }) => {
            Tensor::Matrix(quick_matrix(generator, rows, cols).unwrap_or_else(|error| unreachable!("a valid header: {error}")))
        }
        (TensorName::RotaryCos | TensorName::RotarySin, TensorShape::Table { rows, width }) => {
            let data = generator.i32s(rows * width, -(1 << 30), 1 << 30);
            Tensor::Table(TableI32::new(rows, width, data).unwrap_or_else(|error| unreachable!("a valid header: {error}")))
        }
        (name, shape) => tensor(generator, name, shape),
    }
}

/// A decoder of random weights.
///
/// # Errors
/// As [`decoder_weights`].
pub fn decoder(header: &Header, seed: u64) -> Result<Model, WeightsError> {
    Model::new(header.clone(), decoder_weights(header, seed)?)
}

fn tensor(generator: &mut Generator, name: TensorName, shape: TensorShape) -> Tensor {
    match shape {
        TensorShape::Matrix { rows, cols, bias } => {
            Tensor::Matrix(matrix(generator, rows, cols, bias).unwrap_or_else(|error| unreachable!("a valid header: {error}")))
        }
        TensorShape::Table { rows, width } => {
            let (low, high) = if name == TensorName::ValueShifts { (0, 2) } else { (-3000, 3000) };
            let data = generator.i32s(rows * width, low, high);
            Tensor::Table(TableI32::new(rows, width, data).unwrap_or_else(|error| unreachable!("a valid header: {error}")))
        }
        // Gains around one, biases around zero.
        TensorShape::Vector { len } => Tensor::Vector(VectorI32::from(generator.i32s(len, -2000, 18_000))),
    }
}
