//! The model header: 40 u32 that fix the shape of a model and every parameter of its arithmetic (PROTOCOL.md, section 2).

use quern_types::FinishReason;
use thiserror::Error;

use crate::bounds;

/// Number of u32 words of a header.
pub const WORDS: usize = 40;
/// Length of a serialised header.
pub const BYTES: usize = 4 * WORDS;
/// Value of an informative id field that names no id.
pub const NO_ID: u32 = 0xffff_ffff;

/// Profile number of `q8a16`.
pub const PROFILE_Q8A16: u32 = 1;
/// Family number of encoders (BERT).
pub const FAMILY_ENCODER: u32 = 1;
/// Family number of decoders (Llama).
pub const FAMILY_DECODER: u32 = 2;
/// Norm number of LayerNorm.
pub const NORM_LAYER: u32 = 1;
/// Norm number of RMSNorm.
pub const NORM_RMS: u32 = 2;
/// Activation number of GELU by the error function.
pub const ACTIVATION_GELU_ERF: u32 = 1;
/// Activation number of GELU by the hyperbolic tangent.
pub const ACTIVATION_GELU_TANH: u32 = 2;
/// Activation number of SiLU.
pub const ACTIVATION_SILU: u32 = 3;
/// Pooling number of "none" (decoders).
pub const POOLING_NONE: u32 = 0;
/// Pooling number of the mean over all positions.
pub const POOLING_MEAN: u32 = 1;
/// Pooling number of the first position.
pub const POOLING_FIRST: u32 = 2;

/// Bits of [`Header::flags`].
pub mod flag {
    /// The ffn is gated: three matrices instead of two.
    pub const GATED_FFN: u32 = 1 << 0;
    /// The query, key and value products have a bias.
    pub const QKV_BIAS: u32 = 1 << 1;
    /// The output product of attention and the ffn's products have a bias.
    pub const OUTPUT_BIAS: u32 = 1 << 2;
    /// Queries and keys are normalised per head.
    pub const QK_NORM: u32 = 1 << 3;
    /// The head is the word embedding itself.
    pub const TIED_HEAD: u32 = 1 << 4;
    /// The norm comes after the residual add (BERT).
    pub const POST_NORM: u32 = 1 << 5;
    /// A position sees only itself and earlier ones.
    pub const CAUSAL: u32 = 1 << 6;
    /// Positions are a learned table that is added to the words.
    pub const LEARNED_POSITIONS: u32 = 1 << 7;
    /// Every bit that has a meaning.
    pub const ALL: u32 = 0xff;
}

/// A model header as it is hashed and registered. The numbers are raw: [`Header::validate`] is what makes them a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Word 0: arithmetic profile, 1 = q8a16.
    pub profile: u32,
    /// Word 1: 1 encoder (BERT), 2 decoder (Llama).
    pub family: u32,
    /// Word 2: number of ids; an id is legal below it.
    pub vocabulary: u32,
    /// Word 3: width of the residual stream.
    pub dim: u32,
    /// Word 4: number of layers.
    pub layers: u32,
    /// Word 5: query heads per layer.
    pub heads: u32,
    /// Word 6: key and value heads per layer; divides `heads`.
    pub kv_heads: u32,
    /// Word 7: elements per head.
    pub head_dim: u32,
    /// Word 8: inner width of the feed-forward part.
    pub ffn: u32,
    /// Word 9: most positions of one item.
    pub context: u32,
    /// Word 10: sliding window in positions, 0 none.
    pub window: u32,
    /// Words 11 (high) and 12 (low): E = round(eps · dim · 2^28), the norm's guard against division by zero.
    pub epsilon: u64,
    /// Word 13: c in Q24, log2(e) / sqrt(head dim): turns a dot product into a score in log2 units.
    pub score_scale: u32,
    /// Word 14: 1 LayerNorm, 2 RMSNorm.
    pub norm: u32,
    /// Word 15: 1 GELU (erf), 2 GELU (tanh), 3 SiLU.
    pub activation: u32,
    /// Word 16: bits of [`flag`].
    pub flags: u32,
    /// Word 17: 0 none, 1 mean, 2 first position.
    pub pooling: u32,
    /// Word 18: rows of the token type table, 0 none. Every position has type 0.
    pub token_types: u32,
    /// Word 19, informative: the id that the tokenizer puts before each item, or [`NO_ID`].
    pub prefix_id: u32,
    /// Word 20, informative: the padding id, or [`NO_ID`].
    pub padding_id: u32,
    /// Words 21 to 28, informative: ids at which the model stops, unused ones [`NO_ID`].
    pub stop_ids: [u32; 8],
    /// Word 29: factor on the word embedding in Q14, 0 = one.
    pub embedding_scale: u32,
    /// Word 30: soft cap of scores, reserved.
    pub attention_soft_cap: u32,
    /// Word 31: soft cap of logits, reserved.
    pub logit_soft_cap: u32,
    /// Word 32: rotary dims of a head, 0 none.
    pub rotary_dims: u32,
    /// Word 33: pattern of sliding windows over layers, reserved.
    pub window_pattern: u32,
    /// Words 34 to 39: reserved, 0.
    pub reserved: [u32; 6],
}

/// Why 40 words are not a model. `field` is the name in PROTOCOL.md's table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not 160 bytes.
    #[error("a model header is {BYTES} bytes, these are {actual}")]
    Length {
        /// Bytes given.
        actual: usize,
    },
    /// A number outside its bounds.
    #[error("model header: {field} is {value}, must be {min} to {max}")]
    OutOfBounds {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Least legal value.
        min: u64,
        /// Greatest legal value.
        max: u64,
    },
    /// A field that must be zero and is not.
    #[error("model header: {field} is {value}, must be 0: {reason}")]
    NotZero {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Why nothing else is legal.
        reason: &'static str,
    },
    /// Two fields that do not fit together.
    #[error("model header: {field} is {value}, but {rule}")]
    Inconsistent {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

impl Header {
    /// The words in the order of the table.
    #[must_use]
    pub fn to_words(&self) -> [u32; WORDS] {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.stop_ids;
        let [r0, r1, r2, r3, r4, r5] = self.reserved;
        let [e0, e1, e2, e3, e4, e5, e6, e7] = self.epsilon.to_be_bytes();
        [
            self.profile,
            self.family,
            self.vocabulary,
            self.dim,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
            self.context,
            self.window,
            u32::from_be_bytes([e0, e1, e2, e3]),
            u32::from_be_bytes([e4, e5, e6, e7]),
            self.score_scale,
            self.norm,
            self.activation,
            self.flags,
            self.pooling,
            self.token_types,
            self.prefix_id,
            self.padding_id,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            self.embedding_scale,
            self.attention_soft_cap,
            self.logit_soft_cap,
            self.rotary_dims,
            self.window_pattern,
            r0,
            r1,
            r2,
            r3,
            r4,
            r5,
        ]
    }

    /// The header of these words; the inverse of [`Header::to_words`], not validated.
    #[must_use]
    pub fn from_words(w: &[u32; WORDS]) -> Self {
        Self {
            profile: w[0],
            family: w[1],
            vocabulary: w[2],
            dim: w[3],
            layers: w[4],
            heads: w[5],
            kv_heads: w[6],
            head_dim: w[7],
            ffn: w[8],
            context: w[9],
            window: w[10],
            epsilon: (u64::from(w[11]) << 32) | u64::from(w[12]),
            score_scale: w[13],
            norm: w[14],
            activation: w[15],
            flags: w[16],
            pooling: w[17],
            token_types: w[18],
            prefix_id: w[19],
            padding_id: w[20],
            stop_ids: [w[21], w[22], w[23], w[24], w[25], w[26], w[27], w[28]],
            embedding_scale: w[29],
            attention_soft_cap: w[30],
            logit_soft_cap: w[31],
            rotary_dims: w[32],
            window_pattern: w[33],
            reserved: [w[34], w[35], w[36], w[37], w[38], w[39]],
        }
    }

    /// The 160 bytes that are hashed: the words, big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(self.to_words()) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// Reads the 160 bytes of a header and validates it.
    ///
    /// # Errors
    /// [`HeaderError::Length`], or whatever [`Header::validate`] finds.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() != BYTES {
            return Err(HeaderError::Length { actual: bytes.len() });
        }
        let mut words = [0; WORDS];
        for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*four);
        }
        let header = Self::from_words(&words);
        header.validate()?;
        Ok(header)
    }

    /// True if all bits of `mask` are set in the flags.
    #[must_use]
    pub const fn has(&self, mask: u32) -> bool {
        self.flags & mask == mask
    }

    /// Why a model with this header computes nothing of these ids, if it does not: empty, too long, unknown id, in this order
    /// (PROTOCOL.md, section 1).
    #[must_use]
    pub fn refuse(&self, ids: &[u32]) -> Option<FinishReason> {
        if ids.is_empty() {
            Some(FinishReason::EmptyItem)
        } else if ids.len() > self.context as usize {
            Some(FinishReason::ItemTooLong)
        } else if ids.iter().any(|&id| id >= self.vocabulary) {
            Some(FinishReason::UnknownId)
        } else {
            None
        }
    }

    /// Checks every bound of EXACT.md, section 2. All proofs of integer width in this crate start from them.
    ///
    /// # Errors
    /// The first field that breaks a rule, in the order of the table.
    pub fn validate(&self) -> Result<(), HeaderError> {
        let within64 = within;
        let within = |field, value: u32, min: u32, max: u32| within(field, u64::from(value), u64::from(min), u64::from(max));
        within("profile", self.profile, PROFILE_Q8A16, PROFILE_Q8A16)?;
        within("family", self.family, FAMILY_ENCODER, FAMILY_DECODER)?;
        within("vocabulary", self.vocabulary, 1, bounds::VOCABULARY)?;
        within("dim", self.dim, 1, bounds::DIM)?;
        within("layers", self.layers, 1, bounds::LAYERS)?;
        within("heads", self.heads, 1, bounds::PRODUCT_COLS)?;
        within("kv heads", self.kv_heads, 1, self.heads)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(inconsistent("kv heads", self.kv_heads, "it must divide the number of heads"));
        }
        within("head dim", self.head_dim, 1, bounds::HEAD_DIM)?;
        if u64::from(self.heads) * u64::from(self.head_dim) > u64::from(bounds::PRODUCT_COLS) {
            return Err(inconsistent("heads", self.heads, "heads times head dim must be at most 32768"));
        }
        within("ffn", self.ffn, 1, bounds::PRODUCT_COLS)?;
        within("context", self.context, 1, bounds::CONTEXT)?;
        within("window", self.window, 0, self.context)?;
        within64("epsilon E", self.epsilon, 0, bounds::EPSILON)?;
        within("score scale c", self.score_scale, 1, bounds::SCORE_SCALE)?;
        within("norm", self.norm, NORM_LAYER, NORM_RMS)?;
        within("activation", self.activation, ACTIVATION_GELU_ERF, ACTIVATION_SILU)?;
        within("flags", self.flags, 0, flag::ALL)?;
        within("pooling", self.pooling, POOLING_NONE, POOLING_FIRST)?;
        within("token types", self.token_types, 0, bounds::TOKEN_TYPES)?;
        within("embedding scale", self.embedding_scale, 0, bounds::EMBEDDING_SCALE)?;
        zero("attention soft cap", self.attention_soft_cap, "it is reserved")?;
        zero("logit soft cap", self.logit_soft_cap, "it is reserved")?;
        within("rotary dims", self.rotary_dims, 0, self.head_dim)?;
        if !self.rotary_dims.is_multiple_of(2) {
            return Err(inconsistent("rotary dims", self.rotary_dims, "rotary dims come in pairs"));
        }
        zero("window pattern", self.window_pattern, "it is reserved")?;
        for word in self.reserved {
            zero("reserved", word, "it is reserved")?;
        }
        match self.family {
            FAMILY_ENCODER => self.validate_encoder(),
            _ => self.validate_decoder(),
        }
    }

    fn validate_encoder(&self) -> Result<(), HeaderError> {
        const UNUSED: &str = "an encoder does not use it";
        if self.kv_heads != self.heads {
            return Err(inconsistent("kv heads", self.kv_heads, "an encoder has as many as heads"));
        }
        zero("window", self.window, UNUSED)?;
        zero("embedding scale", self.embedding_scale, UNUSED)?;
        zero("rotary dims", self.rotary_dims, UNUSED)?;
        zero("flags", self.flags & (flag::QK_NORM | flag::TIED_HEAD | flag::CAUSAL), UNUSED)?;
        within("pooling", u64::from(self.pooling), u64::from(POOLING_MEAN), u64::from(POOLING_FIRST))
    }

    fn validate_decoder(&self) -> Result<(), HeaderError> {
        const UNUSED: &str = "a decoder does not use it";
        zero("pooling", self.pooling, UNUSED)?;
        zero("token types", self.token_types, UNUSED)
    }

    /// Linear multiply-adds per token, the unit of work that `ModelRegistry` stores:
    /// `layers · (dim · head dim · (2 heads + 2 kv heads) + ffn · dim · (3 if gated, else 2))`, plus `vocabulary · dim` for a decoder.
    ///
    /// # Errors
    /// What [`Header::validate`] finds; below its bounds the figure is less than 2^43.
    pub fn macs_per_token(&self) -> Result<u64, HeaderError> {
        self.validate()?;
        let [dim, head_dim, heads, kv_heads, ffn, layers, vocabulary] =
            [self.dim, self.head_dim, self.heads, self.kv_heads, self.ffn, self.layers, self.vocabulary].map(u64::from);
        let ffn_matrices = if self.has(flag::GATED_FFN) { 3 } else { 2 };
        let layer = dim * head_dim * (2 * heads + 2 * kv_heads) + ffn * dim * ffn_matrices;
        let head = if self.family == FAMILY_DECODER { vocabulary * dim } else { 0 };
        Ok(layers * layer + head)
    }
}

fn within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), HeaderError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(HeaderError::OutOfBounds { field, value, min, max }) }
}

fn zero(field: &'static str, value: u32, reason: &'static str) -> Result<(), HeaderError> {
    if value == 0 { Ok(()) } else { Err(HeaderError::NotZero { field, value: u64::from(value), reason }) }
}

fn inconsistent(field: &'static str, value: u32, rule: &'static str) -> HeaderError {
    HeaderError::Inconsistent { field, value: u64::from(value), rule }
}
