//! A GGUF file of a Llama-like decoder, read with candle: the same configuration, tensors and tokenizer as a folder has.
//!
//! Quantised tensors are what candle dequantises them to: f32 products and sums in one order, the same on every machine.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{
        GgmlDType, QTensor,
        ggml_file::qtensor_from_ggml,
        gguf_file::{Content, TensorInfo, Value},
    },
};

use super::{Chat, Floats, Rope, Scaling, TensorSource, Unknown, decoder::DecoderConfig};
use crate::{ModelError, convert::Decimal, guard::guarded};
use quern_exact::header;

/// Fields of an architecture that no arithmetic depends on, or that the tensors say too.
const NEUTRAL: &[&str] = &["vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"];
/// Fields of an architecture that a [`DecoderConfig`] is made of.
const READ: &[&str] = &[
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.type",
];

/// A GGUF file, its tensors still in it.
pub(crate) struct Gguf {
    path: PathBuf,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
    data: u64,
    /// The prefix of the fields of the architecture.
    architecture: &'static str,
    /// Of llama's queries and keys, whose rows are stored pair by pair: elements of a head. The folders' order is half by half.
    pairs_of: Option<usize>,
}

impl Gguf {
    /// Reads everything but the tensors.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::read(path))?;
        let refuse = |reason: String| ModelError::Gguf { path: path.to_owned(), reason };
        // An alignment of 0 is one that candle divides by.
        let content = guarded(|| Content::read(&mut BufReader::new(file))).map_err(refuse)?.map_err(|error| refuse(first_line(&error)))?;
        let mut gguf = Self {
            path: path.to_owned(),
            metadata: content.metadata,
            tensors: content.tensor_infos,
            data: content.tensor_data_offset,
            architecture: "general",
            pairs_of: None,
        };
        const KNOWN: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma"];
        let found = gguf.text("general.architecture").unwrap_or("missing").to_owned();
        let known = KNOWN.into_iter().find(|known| *known == found);
        gguf.architecture = known.ok_or_else(|| gguf.refuse("general.architecture", &found, &format!("one of {KNOWN:?}")))?;
        Ok(gguf)
    }

    /// The configuration, as config.json would say it.
    pub(crate) fn config(&mut self) -> Result<DecoderConfig, ModelError> {
        let dim = self.count("embedding_length")?;
        let heads = self.count("attention.head_count")?;
        let head_dim = match self.optional("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(self.refuse_field("attention.head_count", heads, "a divisor of embedding_length")),
        };
        let fixed =
            [("attention.value_length", head_dim), ("rope.dimension_count", head_dim), ("expert_count", 0), ("expert_used_count", 0)];
        for (field, expected) in fixed {
            if let Some(other) = self.optional(field)?.filter(|found| *found != expected) {
                return Err(self.refuse_field(field, other, &format!("{expected}, or no such field")));
            }
        }
        if self.has("attention.causal") && !self.flag(&format!("{}.attention.causal", self.architecture)) {
            return Err(self.refuse_field("attention.causal", "false", "true, or no such field"));
        }
        // What llama.cpp looks for in files of each architecture; it takes no file with a tensor that it has no use for.
        let (llama, gemma) = (self.architecture == "llama", self.architecture == "gemma");
        let has = |name: &str| llama && self.tensors.contains_key(name);
        let [qkv_bias, output_bias, ffn_bias] = ["blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_up.bias"].map(has);
        if llama {
            self.pairs_of = Some(head_dim as usize);
        }
        let vocabulary = self.tensors.get("token_embd.weight").and_then(|info| info.shape.dims().first().copied()).unwrap_or(0);
        let vocabulary = u32::try_from(vocabulary).ok().filter(|n| *n > 0).ok_or_else(|| ModelError::MissingTensor {
            path: self.path.clone(),
            tensor: "token_embd.weight".to_owned(),
            expected: vec![0, dim as usize],
        })?;
        let eps = self.float("attention.layer_norm_rms_epsilon")?;
        let stop_ids = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
        let mut stop_ids: Vec<u32> = stop_ids.iter().filter_map(|name| self.id(name)).collect();
        stop_ids.dedup();
        let config = DecoderConfig {
            vocabulary,
            dim,
            layers: self.count("block_count")?,
            heads,
            kv_heads: self.optional("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            ffn: self.count("feed_forward_length")?,
            context: self.count("context_length")?,
            window: self.optional("attention.sliding_window")?.unwrap_or(0),
            eps: Decimal::parse(&eps)
                .filter(|eps| eps.is_below(10))
                .ok_or_else(|| self.refuse_field("attention.layer_norm_rms_epsilon", &eps, "from 0 to below 10"))?,
            eps_text: eps,
            qkv_bias: qkv_bias || self.architecture == "qwen2",
            output_bias,
            ffn_bias,
            qk_norm: self.architecture == "qwen3",
            fused: false,
            // The files have whole gains.
            gains_less_one: false,
            scaled_words: gemma,
            activation: if gemma { header::ACTIVATION_GELU_TANH } else { header::ACTIVATION_SILU },
            tied: gemma || !self.tensors.contains_key("output.weight"),
            rope: self.rope(head_dim)?,
            rotary_dims: head_dim,
            stop_ids,
            padding_id: self.id("tokenizer.ggml.padding_token_id"),
            notes: Vec::new(),
            unknown: self.unknown(),
        };
        Ok(config)
    }

    fn rope(&self, head_dim: u32) -> Result<Rope, ModelError> {
        let theta = if self.has("rope.freq_base") { self.float("rope.freq_base")? } else { "10000".to_owned() };
        let at_least_one = |field: &str, text: &str| {
            let decimal = Decimal::parse(text).filter(|decimal| !decimal.is_below(1));
            decimal.ok_or_else(|| self.refuse_field(field, text, "a number from 1"))
        };
        let theta = at_least_one("rope.freq_base", &theta)?;
        // Without a type llama.cpp takes a factor as linear; a factor beside "none" it takes for nothing.
        let kind = self.text(&format!("{}.rope.scaling.type", self.architecture)).unwrap_or("linear");
        let factor = match kind {
            "none" => None,
            "linear" if !self.has("rope.scaling.factor") => None,
            "linear" => {
                Some(at_least_one("rope.scaling.factor", &self.float("rope.scaling.factor")?)?).filter(|factor| *factor != Decimal::from(1))
            }
            other => return Err(self.refuse_field("rope.scaling.type", other, "none or linear")),
        };
        let divisors = self.architecture == "llama" && self.tensors.contains_key("rope_freqs.weight");
        let scaling = match (factor, divisors) {
            (None, false) => Scaling::None,
            (Some(factor), false) => Scaling::Linear { factor },
            (None, true) => {
                let divisors = self.floats("rope_freqs.weight", &[head_dim as usize / 2])?;
                // From 1 on, as every scaling of long contexts has them: the proof of the tables' rounding starts there.
                if divisors.bits.iter().any(|bits| !(1f32.to_bits()..0x7f80_0000).contains(bits)) {
                    return Err(self.refuse("rope_freqs.weight", "a number below 1", "numbers from 1"));
                }
                Scaling::Divisors(divisors.bits)
            }
            (Some(_), true) => {
                let found = self.float("rope.scaling.factor")?;
                return Err(self.refuse_field("rope.scaling.factor", found, "1, or no such field, beside the tensor rope_freqs.weight"));
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// The fields of the architecture that are not known.
    fn unknown(&self) -> Vec<Unknown> {
        let prefix = format!("{}.", self.architecture);
        let fields = self.metadata.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(&prefix)?, value)));
        let unknown = fields.filter(|(_, field, _)| !READ.contains(field) && !NEUTRAL.contains(field));
        let mut unknown: Vec<_> = unknown.map(|(name, _, value)| (name, format!("{value:?}"))).collect();
        unknown.sort_unstable();
        unknown.into_iter().map(|(name, found)| Unknown::field(&self.path, name, found)).collect()
    }

    /// The chat template, if the file has one.
    pub(crate) fn chat(&self) -> Option<Chat> {
        let template = self.text("tokenizer.chat_template")?.to_owned();
        let token = |name: &str| self.tokens().get(self.id(name)? as usize).map(|token| (*token).to_owned());
        Some(Chat { template, bos_token: token("tokenizer.ggml.bos_token_id"), eos_token: token("tokenizer.ggml.eos_token_id") })
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.metadata.get(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.metadata.get(name), Some(Value::Bool(true)))
    }

    pub(super) fn id(&self, name: &str) -> Option<u32> {
        let id = self.metadata.get(name)?.to_u64().ok()?;
        u32::try_from(id).ok().filter(|id| *id != header::NO_ID)
    }

    /// The tokenizer's texts in order of their ids.
    pub(super) fn tokens(&self) -> Vec<&str> {
        self.texts("tokenizer.ggml.tokens")
    }

    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        let Some(Value::Array(values)) = self.metadata.get(name) else { return Vec::new() };
        values.iter().map(|value| value.to_string().map_or("", String::as_str)).collect()
    }

    pub(super) fn numbers(&self, name: &str) -> Vec<i64> {
        let Some(Value::Array(values)) = self.metadata.get(name) else { return Vec::new() };
        let number = |value: &Value| {
            value.to_i64().ok().or_else(|| value.to_i32().ok().map(i64::from)).or_else(|| value.to_u64().ok()?.try_into().ok())
        };
        values.iter().map(|value| number(value).unwrap_or(0)).collect()
    }

    fn has(&self, field: &str) -> bool {
        self.metadata.contains_key(&format!("{}.{field}", self.architecture))
    }

    fn optional(&self, field: &str) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.metadata.get(&format!("{}.{field}", self.architecture)) else { return Ok(None) };
        let number = value.to_u64().ok().or_else(|| value.to_i32().ok()?.try_into().ok()).and_then(|n| u32::try_from(n).ok());
        number.map(Some).ok_or_else(|| self.refuse_field(field, format!("{value:?}"), "a whole number"))
    }

    fn count(&self, field: &str) -> Result<u32, ModelError> {
        match self.optional(field)? {
            Some(count @ 1..=0x100_0000) => Ok(count),
            Some(other) => Err(self.refuse_field(field, other, "a whole number from 1 to 2^24")),
            None => Err(self.refuse_field(field, "missing", "a whole number from 1 to 2^24")),
        }
    }

    /// A float as the shortest decimal that rounds to it: what config.json had before it became f32.
    fn float(&self, field: &str) -> Result<String, ModelError> {
        match self.metadata.get(&format!("{}.{field}", self.architecture)) {
            Some(Value::F32(number)) => Ok(number.to_string()),
            Some(Value::F64(number)) => Ok(number.to_string()),
            Some(other) => Err(self.refuse_field(field, format!("{other:?}"), "a float")),
            None => Err(self.refuse_field(field, "missing", "a float")),
        }
    }

    fn refuse_field(&self, field: &str, found: impl ToString, expected: &str) -> ModelError {
        self.refuse(&format!("{}.{field}", self.architecture), found, expected)
    }

    pub(super) fn refuse(&self, field: &str, found: impl ToString, expected: &str) -> ModelError {
        ModelError::Field { path: self.path.clone(), field: field.to_owned(), found: found.to_string(), expected: expected.to_owned() }
    }

    /// The row of the file that is row `at` of a folder's tensor.
    fn stored_row(&self, name: &str, at: usize) -> usize {
        let permuted = name.contains(".attn_q.") || name.contains(".attn_k.");
        match self.pairs_of.filter(|_| permuted) {
            // Half t, pair j of a head of the folder is element t of pair j in the file.
            Some(head) => at / head * head + at % head % (head / 2) * 2 + at % head / (head / 2),
            None => at,
        }
    }
}

impl TensorSource for Gguf {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn rows(&self, name: &str, expected: &[usize], rows: Range<usize>) -> Result<Floats, ModelError> {
        let Some(info) = self.tensors.get(name) else {
            return Err(ModelError::MissingTensor { path: self.path.clone(), tensor: name.to_owned(), expected: expected.to_vec() });
        };
        if info.shape.dims() != expected {
            return Err(ModelError::Shape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: info.shape.dims().to_vec(),
            });
        }
        if matches!(info.ggml_dtype, GgmlDType::Q8_1 | GgmlDType::Q8K) {
            let found = format!("{:?}", info.ggml_dtype);
            return Err(ModelError::ElementType { path: self.path.clone(), tensor: name.to_owned(), found });
        }
        let failed = |error: candle_core::Error| ModelError::Gguf {
            path: self.path.clone(),
            reason: format!("tensor {name}: {}", first_line(&error)),
        };
        // A vector is one row, but its elements may be stored in another order.
        let width: usize = expected.iter().skip(1).product();
        let (block, size) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
        let (stored, first, per_read) =
            if width.is_multiple_of(block) { (width, rows.clone(), 1) } else { (expected.iter().product(), 0..1, expected[0]) };
        if !stored.is_multiple_of(block) {
            return Err(self.refuse(name, format!("rows of {width} in blocks of {block}"), "whole blocks"));
        }
        let bytes = stored / block * size;
        let mut file = File::open(&self.path).map_err(ModelError::read(&self.path))?;
        let length = file.metadata().map_err(ModelError::read(&self.path))?.len();
        let whole = expected.iter().try_fold(1usize, |product, n| product.checked_mul(*n)).and_then(|n| (n / block).checked_mul(size));
        let begin = self.data.checked_add(info.offset);
        // Before anything is allocated by what the file says of itself.
        let Some(begin) = begin.filter(|begin| whole.and_then(|whole| begin.checked_add(whole as u64)).is_some_and(|end| end <= length))
        else {
            return Err(ModelError::Gguf { path: self.path.clone(), reason: format!("tensor {name} reaches beyond the end of the file") });
        };
        let mut read = |row: usize| {
            let mut raw = vec![0; bytes];
            let start = begin + (row * bytes) as u64;
            file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut raw)).map_err(ModelError::read(&self.path))?;
            let tensor: QTensor = qtensor_from_ggml(info.ggml_dtype, &raw, vec![stored], &Device::Cpu).map_err(failed)?;
            tensor.dequantize(&Device::Cpu).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>()).map_err(failed)
        };
        let mut bits = Vec::with_capacity(rows.len() * width);
        if per_read == 1 {
            for row in first {
                bits.extend(read(self.stored_row(name, row))?.into_iter().map(f32::to_bits));
            }
        } else {
            let all = read(0)?;
            for row in rows.clone() {
                let at = self.stored_row(name, row) * width;
                bits.extend(all[at..at + width].iter().map(|x| x.to_bits()));
            }
        }
        Floats { path: self.path.clone(), name: name.to_owned(), shape: expected.to_vec(), first: rows.start * width, bits }.finite()
    }
}

/// candle's errors may carry a backtrace behind their message.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or("unknown error").to_owned()
}
