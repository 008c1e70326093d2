//! Headers, matrices and weights: what is refused, and by which words.

use std::sync::Arc;

use quern_exact::{
    bounds,
    decoder::DecoderWeights,
    encoder::{Encoder, EncoderWeights},
    format::{FormatError, Q8Matrix, TableI32, VectorI32, Weights},
    header::{self, Header, HeaderError, flag},
    layout::{Tensor, TensorName, TensorRef, WeightsError, tensor_specs},
    sample,
};

#[test]
fn header_round_trips_through_words_and_bytes() {
    let words: [u32; header::WORDS] = std::array::from_fn(|at| 0x0101_0101 * u32::try_from(at + 1).expect("small"));
    let header = Header::from_words(&words);
    assert_eq!(header.to_words(), words);
    let bytes = header.to_bytes();
    assert_eq!((bytes[4 * 11 + 3], bytes[159]), (12, 40));
    assert_eq!(header.epsilon, 0x0c0c_0c0c_0d0d_0d0d);
    let valid = sample::minilm_header();
    assert_eq!(Header::parse(&valid.to_bytes()), Ok(valid));
    assert_eq!(Header::parse(&[0; 159]), Err(HeaderError::Length { actual: 159 }));
}

/// Each word set to a value just outside its bounds is refused under its own name.
#[test]
fn header_refuses_each_field_just_outside_its_bounds() {
    let cases: &[(usize, u32, &str)] = &[
        (0, 0, "profile"),
        (0, 2, "profile"),
        (1, 0, "family"),
        (1, 3, "family"),
        (2, 0, "vocabulary"),
        (2, (1 << 24) + 1, "vocabulary"),
        (3, 0, "dim"),
        (3, 16_385, "dim"),
        (4, 0, "layers"),
        (4, 1025, "layers"),
        (5, 0, "heads"),
        (5, 32_769, "heads"),
        (5, 2049, "heads"),
        (6, 0, "kv heads"),
        (6, 4, "kv heads"),
        (6, 2, "kv heads"),
        (6, 1, "kv heads"),
        (7, 0, "head dim"),
        (7, 257, "head dim"),
        (8, 0, "ffn"),
        (8, 32_769, "ffn"),
        (9, 0, "context"),
        (9, 32_769, "context"),
        (10, 1, "window"),
        (11, 1 << 30, "epsilon E"),
        (13, 0, "score scale c"),
        (13, (1 << 25) + 1, "score scale c"),
        (14, 0, "norm"),
        (14, 3, "norm"),
        (15, 0, "activation"),
        (15, 4, "activation"),
        (16, 1 << 8, "flags"),
        (16, 1 << 6, "flags"),
        (17, 0, "pooling"),
        (17, 3, "pooling"),
        (18, 257, "token types"),
        (29, 1, "embedding scale"),
        (30, 1, "attention soft cap"),
        (31, 1, "logit soft cap"),
        (32, 2, "rotary dims"),
        (33, 1, "window pattern"),
        (34, 1, "reserved"),
        (39, 1, "reserved"),
    ];
    for &(word, value, expected) in cases {
        let mut words = sample::small_header().to_words();
        words[word] = value;
        let error = Header::from_words(&words).validate().expect_err("outside its bounds");
        let (HeaderError::OutOfBounds { field, .. } | HeaderError::NotZero { field, .. } | HeaderError::Inconsistent { field, .. }) =
            &error
        else {
            panic!("{error}")
        };
        assert_eq!(*field, expected, "word {word} = {value}: {error}");
    }
    // Informative words may hold anything.
    for word in 19..29 {
        let mut words = sample::small_header().to_words();
        words[word] = 12_345;
        assert_eq!(Header::from_words(&words).validate(), Ok(()));
    }
}

#[test]
fn header_accepts_decoders_and_refuses_those_that_this_release_does_not_run_by_field() {
    let decoder = Header {
        family: 2,
        heads: 8,
        kv_heads: 2,
        rotary_dims: 16,
        norm: 2,
        activation: 3,
        flags: 0b101_0001,
        pooling: 0,
        token_types: 0,
        ..sample::small_header()
    };
    assert_eq!(decoder.validate(), Ok(()));
    // layers · (dim · head dim · (2 · 8 + 2 · 2) + 3 · ffn · dim) + vocabulary · dim
    assert_eq!(decoder.macs_per_token(), Ok(2 * (48 * 16 * 20 + 3 * 144 * 48) + 100 * 48));
    assert!(tensor_specs(&decoder).is_ok());
    let refused = |header: Header| match tensor_specs(&header).expect_err("not supported") {
        WeightsError::Unsupported { field, value, .. } => (field, value),
        error => panic!("{error}"),
    };
    assert_eq!(refused(Header { norm: 1, ..decoder.clone() }), ("norm", 1));
    for (flags, shape) in [(0b100_0000, 0b100_0000), (0b111_0001, 0b110_0001), (0b001_0001, 1), (0b1101_0001, 0b1100_0001)] {
        assert_eq!(refused(Header { flags, ..decoder.clone() }), ("flags (bits 0, 5, 6 and 7)", shape));
    }
    let encoder = sample::small_header();
    assert_eq!(refused(Header { norm: 2, ..encoder.clone() }), ("norm", 2));
    assert_eq!(refused(Header { activation: 3, ..encoder }), ("activation", 3));
    let error = EncoderWeights::from_tensors(&decoder, []).expect_err("a decoder");
    assert_eq!(error.to_string(), "this release runs an encoder with family 1 (BERT) only; the header has 2");
    let error = DecoderWeights::from_tensors(&sample::small_header(), []).expect_err("an encoder");
    assert_eq!(error.to_string(), "this release runs a decoder with family 2 (Llama) only; the header has 1");
}

#[test]
fn macs_of_minilm_are_its_linear_layers() {
    assert_eq!(sample::minilm_header().macs_per_token(), Ok(6 * (4 * 384 * 384 + 2 * 384 * 1536)));
    assert!(Header { dim: 0, ..sample::minilm_header() }.macs_per_token().is_err());
}

#[test]
fn matrix_refuses_what_is_malformed_and_says_where() {
    let build = |weights: Vec<i8>, mantissas: Vec<u16>, shifts: Vec<u8>, bias: Option<Vec<i32>>| {
        Q8Matrix::new(2, 3, weights, mantissas, shifts, bias)
    };
    let legal = || (vec![127i8, -127, 0, 1, 2, 3], vec![1u16, 65_535], vec![17u8, 62]);
    let (weights, mantissas, shifts) = legal();
    assert!(build(weights, mantissas, shifts, Some(vec![i32::MIN, i32::MAX])).is_ok());

    let (mut weights, mantissas, shifts) = legal();
    weights[4] = -128;
    assert_eq!(build(weights, mantissas, shifts, None), Err(FormatError::Weight { row: 1, col: 1 }));
    let (weights, mut mantissas, shifts) = legal();
    mantissas[1] = 0;
    assert_eq!(build(weights, mantissas, shifts, None), Err(FormatError::Mantissa { row: 1, group: 0 }));
    for shift in [0, 16, 63, 255] {
        let (weights, mantissas, _) = legal();
        assert_eq!(build(weights, mantissas, vec![17, shift], None), Err(FormatError::Shift { row: 1, shift }));
    }
    let (weights, mantissas, shifts) = legal();
    assert_eq!(
        build(weights[1..].to_vec(), mantissas.clone(), shifts.clone(), None),
        Err(FormatError::Size { part: "weights", actual: 5, expected: 6 })
    );
    assert_eq!(
        build(weights.clone(), mantissas[1..].to_vec(), shifts.clone(), None),
        Err(FormatError::Size { part: "mantissas", actual: 1, expected: 2 })
    );
    assert_eq!(
        build(weights.clone(), mantissas.clone(), vec![17; 3], None),
        Err(FormatError::Size { part: "shifts", actual: 3, expected: 2 })
    );
    assert_eq!(build(weights, mantissas, shifts, Some(vec![])), Err(FormatError::Size { part: "bias", actual: 0, expected: 2 }));
    for (rows, cols) in [(0, 1), (1, 0), (1, 32_769), ((1 << 24) + 1, 1), (usize::MAX, usize::MAX)] {
        assert_eq!(Q8Matrix::new(rows, cols, vec![], vec![], vec![], None), Err(FormatError::Shape { rows, cols }));
    }
}

#[test]
fn matrix_rows_carry_their_own_groups() {
    let weights: Vec<i8> = (0..2 * 130u32).map(|at| i8::try_from(at % 100).expect("small")).collect();
    let matrix = Q8Matrix::new(2, 130, weights.clone(), vec![1, 2, 3, 4], vec![20, 21], Some(vec![-5, 6])).expect("legal");
    let row = matrix.row(1).expect("two rows");
    assert_eq!((row.shift, row.bias, row.mantissas, row.weights), (21, 6, &[3u16, 4][..], &weights[130..]));
    assert_eq!(matrix.iter_rows().collect::<Vec<_>>(), [matrix.row(0).expect("row"), row]);
    assert_eq!((matrix.row(2), matrix.groups()), (None, 2));
}

#[test]
fn shared_weights_are_a_window_of_their_buffer() {
    let buffer: Arc<dyn AsRef<[i8]> + Send + Sync> = Arc::new(vec![1i8, 2, 3, 4, 5]);
    assert_eq!(Weights::shared(buffer.clone(), 1..4).expect("inside").as_slice(), [2, 3, 4]);
    assert_eq!(Weights::shared(buffer.clone(), 5..5).expect("inside").as_slice(), [0i8; 0]);
    assert_eq!(Weights::shared(buffer, 3..6), Err(FormatError::Window { start: 3, end: 6, len: 5 }));
}

#[test]
fn table_refuses_ragged_data() {
    assert_eq!(TableI32::new(2, 3, vec![0; 5]), Err(FormatError::Size { part: "table", actual: 5, expected: 6 }));
    assert_eq!(TableI32::new(0, 0, vec![]), Err(FormatError::Shape { rows: 0, cols: 0 }));
    let table = TableI32::new(2, 2, vec![1, 2, 3, 4]).expect("sizes fit");
    assert_eq!((table.row(1), table.row(2), table.row(usize::MAX)), (Some(&[3, 4][..]), None, None));
    assert_eq!(TableI32::new(0, 3, vec![]).expect("no rows").rows(), 0);
}

fn owned(weights: &EncoderWeights) -> Vec<Tensor> {
    let clone = |tensor: TensorRef<'_>| match tensor {
        TensorRef::Matrix(matrix) => Tensor::Matrix(matrix.clone()),
        TensorRef::Table(table) => Tensor::Table(table.clone()),
        TensorRef::Vector(vector) => Tensor::Vector(vector.clone()),
    };
    weights.tensors().map(|(_, tensor)| clone(tensor)).collect()
}

#[test]
fn weights_list_their_tensors_in_the_order_of_the_specification() {
    let header = sample::small_header();
    let weights = sample::weights(&header, 1).expect("a valid header");
    let specs = tensor_specs(&header).expect("supported");
    let names: Vec<TensorName> = weights.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, specs.iter().map(|spec| spec.name).collect::<Vec<_>>());
    let text: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(text[..6], ["words", "positions", "token_types", "embedding_norm.gain", "embedding_norm.bias", "layers.0.query"]);
    assert_eq!(text[14..16], ["layers.0.ffn_norm.bias", "layers.1.query"]);
    assert_eq!(text.last().map(String::as_str), Some("value_shifts"));
    assert_eq!(EncoderWeights::from_tensors(&header, owned(&weights)), Ok(weights));
}

#[test]
fn decoder_weights_list_their_tensors_in_the_order_of_the_specification() {
    let base = sample::small_decoder_header();
    let all = Header { flags: base.flags | flag::QK_NORM | flag::TIED_HEAD | flag::QKV_BIAS, rotary_dims: 0, ..base.clone() };
    for header in [&base, &all] {
        let weights = sample::decoder_weights(header, 1).expect("a valid header");
        let specs = tensor_specs(header).expect("supported");
        let names: Vec<TensorName> = weights.tensors().map(|(name, _)| name).collect();
        assert_eq!(names, specs.iter().map(|spec| spec.name).collect::<Vec<_>>());
        let tensors = weights.tensors().map(|(_, tensor)| match tensor {
            TensorRef::Matrix(matrix) => Tensor::Matrix(matrix.clone()),
            TensorRef::Table(table) => Tensor::Table(table.clone()),
            TensorRef::Vector(vector) => Tensor::Vector(vector.clone()),
        });
        assert_eq!(DecoderWeights::from_tensors(header, tensors.collect::<Vec<_>>()), Ok(weights));
    }
    let names = |header: &Header| tensor_specs(header).expect("supported").iter().map(|spec| spec.name.to_string()).collect::<Vec<_>>();
    let layer = |tensors: &[&str]| tensors.iter().map(|tensor| format!("layers.1.{tensor}")).collect::<Vec<_>>();
    let plain = names(&base);
    assert_eq!(plain[..4], ["words", "rotary.cos", "rotary.sin", "layers.0.attention_norm.gain"]);
    assert_eq!(plain[12..21], layer(&["attention_norm.gain", "query", "key", "value", "output", "ffn_norm.gain", "gate", "up", "down"]));
    assert_eq!(plain[21..], ["final_norm.gain", "head", "value_shifts"]);
    let plain = names(&all);
    assert_eq!(plain[..2], ["words", "layers.0.attention_norm.gain"]);
    assert_eq!(plain[12..18], layer(&["attention_norm.gain", "query", "key", "value", "query_norm.gain", "key_norm.gain"]));
    assert_eq!(plain[23..], ["final_norm.gain", "value_shifts"]);
}

#[test]
fn weights_that_do_not_fit_the_header_are_refused_by_name() {
    let header = sample::small_header();
    let weights = sample::weights(&header, 1).expect("a valid header");
    let build = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = owned(&weights);
        change(&mut tensors);
        EncoderWeights::from_tensors(&header, tensors).map(|_| ()).expect_err("does not fit").to_string()
    };
    assert_eq!(build(&|tensors| drop(tensors.pop())), "tensor value_shifts is missing");
    assert_eq!(build(&|tensors| tensors.push(tensors[3].clone())), "there are more tensors than the header asks for");
    assert_eq!(
        build(&|tensors| tensors[3] = Tensor::Vector(VectorI32::from(vec![1; 47]))),
        "tensor embedding_norm.gain is an int32 vector of 47, the header asks for an int32 vector of 48"
    );
    assert_eq!(
        build(&|tensors| tensors.swap(4, 5)),
        "tensor embedding_norm.bias is a matrix of 48 x 48 with bias, the header asks for an int32 vector of 48"
    );
    let shifts = |shift: i32| Tensor::Table(TableI32::new(2, 3, vec![0, 0, 0, 0, shift, 0]).expect("sizes fit"));
    for shift in [-1, 17, i32::MIN] {
        let expected = WeightsError::ValueShift { layer: 1, head: 1, shift }.to_string();
        assert_eq!(build(&|tensors| *tensors.last_mut().expect("not empty") = shifts(shift)), expected);
    }
    let short = EncoderWeights { layers: weights.layers[..1].to_vec(), ..weights.clone() };
    let error = Encoder::new(header.clone(), short).map(|_| ()).expect_err("a layer is missing");
    assert_eq!(error.to_string(), "tensor layers.1.query is missing");
    let odd = Header { context: bounds::CONTEXT, ..header };
    assert!(matches!(Encoder::new(odd, weights), Err(WeightsError::Shape { name: TensorName::Positions, .. })));
}
