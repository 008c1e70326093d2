//! From a folder to a package: reproducible to the byte, and every way in which a folder can be wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::{fs, path::Path};

use fixture::{CONTEXT, DIM, FFN, Tensors, Type, WORDS};
use quern_model::{ImportOptions, ModelError, Package, Reference};
use serde_json::json;
use tempfile::TempDir;

fn import(tensors: &Tensors, kind: Type) -> Result<Package, ModelError> {
    let folder = TempDir::new().unwrap();
    fixture::write(folder.path(), &fixture::safetensors(tensors, kind));
    Package::import(folder.path(), &folder.path().join("out.quern"), false)
}

/// The error of importing a folder after `break_it`, and a check that nothing is left under the name.
fn broken(break_it: impl FnOnce(&Path)) -> ModelError {
    let folder = TempDir::new().unwrap();
    fixture::write(folder.path(), &fixture::safetensors(&fixture::short_tensors(), Type::F32));
    break_it(folder.path());
    let out = folder.path().join("out.quern");
    let error = Package::import(folder.path(), &out, false).expect_err("a broken folder");
    assert!(!out.exists(), "a failed import leaves nothing behind");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".quern-import")), "{left:?}");
    error
}

fn broken_tensors(change: impl FnOnce(&mut Tensors)) -> ModelError {
    broken(|folder| {
        let mut tensors = fixture::short_tensors();
        change(&mut tensors);
        fs::write(folder.join("model.safetensors"), fixture::safetensors(&tensors, Type::F32)).unwrap();
    })
}

fn broken_field(name: &str, value: serde_json::Value) -> String {
    broken(|folder| fixture::write_with(folder, &[(name, value)])).to_string()
}

#[test]
fn f32_f16_and_bf16_of_the_same_numbers_have_the_same_root() {
    let tensors = fixture::short_tensors();
    let roots = [Type::F32, Type::F16, Type::Bf16].map(|kind| import(&tensors, kind).unwrap().root());
    assert_eq!(roots[0], roots[1]);
    assert_eq!(roots[0], roots[2]);
    assert_eq!(roots[0].to_string(), GOLDEN_SHORT);
}

#[test]
fn full_precision_weights_have_their_root_on_every_machine() {
    assert_eq!(import(&fixture::long_tensors(), Type::F32).unwrap().root().to_string(), GOLDEN_LONG);
}

// Change these only with a change of docs/EXACT.md or docs/PROTOCOL.md: a new root is another model.
const GOLDEN_SHORT: &str = "0xfee613debbdad594d44f1330ed31fc6b45df738d66011be03bd4cf65b40782de";
const GOLDEN_LONG: &str = "0x4bfdc8f1107e49d0b13cd760657550f5d65b6ecaf12d57f2ac52304d537afa65";

#[test]
fn importing_twice_gives_the_same_bytes_in_every_file() {
    let folder = TempDir::new().unwrap();
    fixture::write(folder.path(), &fixture::safetensors(&fixture::long_tensors(), Type::F32));
    let [a, b] = ["a.quern", "b.quern"].map(|name| folder.path().join(name));
    Package::import(folder.path(), &a, false).unwrap();
    Package::import(folder.path(), &b, false).unwrap();
    for name in ["header.bin", "weights.bin", "tokenizer.json", "conversion.json"] {
        assert_eq!(fs::read(a.join(name)).unwrap(), fs::read(b.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn the_header_is_what_config_and_tokenizer_say() {
    let package = import(&fixture::short_tensors(), Type::F32).unwrap();
    let header = package.header();
    assert_eq!([header.vocabulary, header.dim, header.layers, header.heads], [40, 24, 2, 3]);
    assert_eq!([header.kv_heads, header.head_dim, header.ffn, header.context], [3, 8, 160, 20]);
    assert_eq!([header.score_scale, header.prefix_id, header.padding_id, header.pooling], [8_557_550, 2, 0, 1]);
    assert_eq!((header.epsilon, header.token_types, header.flags), (0, 2, 0b1010_0110));
    assert!(package.record().notes.is_empty(), "{:?}", package.record().notes);
}

#[test]
fn a_checkpoint_with_a_task_head_gives_the_same_package() {
    let plain = fixture::short_tensors();
    let mut with_head: Tensors = plain.iter().map(|(name, tensor)| (format!("bert.{name}"), tensor.clone())).collect();
    with_head.insert("cls.predictions.bias".to_owned(), (vec![3], vec![1.0, 2.0, 3.0]));
    with_head.insert("bert.pooler.dense.bias".to_owned(), (vec![2], vec![1.0, 2.0]));
    let package = import(&with_head, Type::F32).unwrap();
    assert_eq!(package.root(), import(&plain, Type::F32).unwrap().root());
    assert!(package.record().notes.is_empty(), "{:?}", package.record().notes);
}

#[test]
fn tensors_and_fields_that_nobody_knows_are_refused_unless_they_are_to_be_ignored() {
    let folder = TempDir::new().unwrap();
    const TENSOR: &str = "encoder.layer.0.adapter.weight";
    let mut tensors = fixture::short_tensors();
    tensors.insert(TENSOR.to_owned(), (vec![1], vec![1.0]));
    fixture::write_with(folder.path(), &[("novel_trick", json!(true))]);
    fs::write(folder.path().join("model.safetensors"), fixture::safetensors(&tensors, Type::F32)).unwrap();
    fs::remove_dir_all(folder.path().join("1_Pooling")).unwrap();
    let import = |ignore: &[&str]| {
        let options = ImportOptions { ignore: ignore.iter().map(|name| (*name).to_owned()).collect(), ..ImportOptions::default() };
        Package::import_with(folder.path(), &folder.path().join("out"), &options, &mut |_| true)
    };
    let error = import(&[TENSOR]).unwrap_err();
    assert!(matches!(&error, ModelError::UnknownField { field, .. } if field == "novel_trick"), "{error}");
    let error = import(&["novel_trick"]).unwrap_err();
    assert!(matches!(&error, ModelError::UnknownTensor { tensor, .. } if tensor == TENSOR), "{error}");
    let notes = import(&["novel_trick", TENSOR]).unwrap().record().notes.join("\n");
    for part in ["field novel_trick (true)", TENSOR, "the mean over all positions is assumed"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
}

#[test]
fn an_encoders_import_can_be_ended_while_it_hashes_and_while_it_converts() {
    let folder = TempDir::new().unwrap();
    let weights = fixture::safetensors(&fixture::short_tensors(), Type::F32);
    fixture::write(folder.path(), &weights);
    let out = folder.path().join("out");
    for most in [1, 7, usize::MAX] {
        let mut reports = Vec::new();
        let imported = Package::import_with(folder.path(), &out, &ImportOptions::default(), &mut |progress| {
            reports.push(progress);
            reports.len() < most
        });
        assert_eq!(reports[0].done, weights.len() as u64);
        assert!(reports.is_sorted_by_key(|progress| progress.done));
        match imported {
            Ok(_) => assert!(most == usize::MAX && reports.last().is_some_and(|last| last.done == last.total)),
            Err(error) => assert!(matches!(error, ModelError::Interrupted) && reports.len() == most && !out.exists(), "{error}"),
        }
    }
}

#[test]
fn shards_give_the_same_package_as_one_file() {
    let folder = TempDir::new().unwrap();
    let tensors = fixture::short_tensors();
    fixture::write(folder.path(), &[]);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (mut first, mut second) = (Tensors::new(), Tensors::new());
    let mut map = serde_json::Map::new();
    for (at, (name, tensor)) in tensors.iter().enumerate() {
        let (shard, file) = if at % 2 == 0 { (&mut first, "a.safetensors") } else { (&mut second, "b.safetensors") };
        shard.insert(name.clone(), tensor.clone());
        map.insert(name.clone(), file.into());
    }
    fs::write(folder.path().join("a.safetensors"), fixture::safetensors(&first, Type::F32)).unwrap();
    fs::write(folder.path().join("b.safetensors"), fixture::safetensors(&second, Type::Bf16)).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let package = Package::import(folder.path(), &folder.path().join("out"), false).unwrap();
    assert_eq!(package.root(), import(&tensors, Type::F32).unwrap().root());

    map.insert("embeddings.LayerNorm.bias".to_owned(), "../a.safetensors".into());
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let error = Package::import(folder.path(), &folder.path().join("other"), false).unwrap_err().to_string();
    assert!(error.contains("weight_map") && error.contains("../a.safetensors"), "{error}");
}

#[test]
fn configurations_of_other_arithmetic_are_refused_by_field() {
    let cases = [
        ("model_type", json!("roberta"), "bert"),
        ("model_type", json!(null), "missing"),
        ("hidden_act", json!("gelu_new"), "gelu"),
        ("hidden_act", json!("relu"), "gelu"),
        ("position_embedding_type", json!("relative_key"), "absolute"),
        ("is_decoder", json!(true), "false"),
        ("quantization_config", json!({"bits": 4}), "null"),
        ("hidden_size", json!(0), "1 to 2^24"),
        ("hidden_size", json!(24.5), "1 to 2^24"),
        ("hidden_size", json!(-24), "1 to 2^24"),
        ("hidden_size", json!("24"), "1 to 2^24"),
        ("num_hidden_layers", json!(null), "missing"),
        ("num_attention_heads", json!(5), "divisor of hidden_size 24"),
        ("layer_norm_eps", json!(-1.0), "from 0"),
        ("layer_norm_eps", json!(null), "missing"),
        ("pad_token_id", json!("zero"), "an id"),
    ];
    for (name, value, expected) in cases {
        let error = broken_field(name, value.clone());
        assert!(error.contains("config.json") && error.contains(name) && error.contains(expected), "{name} = {value}: {error}");
    }
    // Past the protocol's bounds, which the header checks.
    let error = broken_field("max_position_embeddings", json!(40_000));
    assert!(error.contains("context") && error.contains("40000"), "{error}");
}

#[test]
fn modules_that_change_the_vector_are_refused() {
    let with_modules = |kinds: &[&str]| {
        let modules: Vec<_> = kinds
            .iter()
            .map(|kind| json!({"idx": 0, "name": "0", "path": "", "type": format!("sentence_transformers.models.{kind}")}))
            .collect();
        broken(|folder| fs::write(folder.join("modules.json"), json!(modules).to_string()).unwrap()).to_string()
    };
    let error = with_modules(&["Transformer", "Dense"]);
    assert!(error.contains("modules.json") && error.contains("Dense"), "{error}");

    for modes in
        [json!({"pooling_mode_max_tokens": true}), json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}), json!({})]
    {
        let error = broken(|folder| fs::write(folder.join("1_Pooling/config.json"), modes.to_string()).unwrap()).to_string();
        assert!(error.contains("pooling_mode"), "{error}");
    }
    let error = broken(|folder| {
        fs::write(
            folder.join("1_Pooling/config.json"),
            json!({"word_embedding_dimension": 25, "pooling_mode_mean_tokens": true}).to_string(),
        )
        .unwrap();
    });
    assert!(error.to_string().contains("word_embedding_dimension"), "{error}");
}

#[test]
fn first_position_pooling_is_another_model() {
    let folder = TempDir::new().unwrap();
    fixture::write(folder.path(), &fixture::safetensors(&fixture::short_tensors(), Type::F32));
    fs::write(folder.path().join("1_Pooling/config.json"), json!({"pooling_mode_cls_token": true}).to_string()).unwrap();
    let package = Package::import(folder.path(), &folder.path().join("out"), false).unwrap();
    assert_eq!(package.header().pooling, 2);
    assert_ne!(package.root().to_string(), GOLDEN_SHORT);
}

#[test]
fn a_missing_file_is_named() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let error = broken(|folder| fs::remove_file(folder.join(name)).unwrap());
        assert!(matches!(&error, ModelError::MissingFile { path, .. } if path.ends_with(name)), "{error}");
    }
    let error = broken(|folder| fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap());
    assert!(error.to_string().contains("saved as safetensors"), "{error}");
}

#[test]
fn a_missing_tensor_is_named_with_the_shape_that_it_should_have() {
    for (name, shape) in fixture::shapes() {
        let error = broken_tensors(|tensors| drop(tensors.remove(&name)));
        let ModelError::MissingTensor { tensor, expected, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!((tensor, expected), (&name, &shape));
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    for (name, shape) in fixture::shapes() {
        let wrong: Vec<usize> = shape.iter().rev().map(|n| n + 1).collect();
        let values = vec![0.5; wrong.iter().product()];
        let error = broken_tensors(|tensors| drop(tensors.insert(name.clone(), (wrong.clone(), values))));
        let ModelError::Shape { tensor, expected, found, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!((tensor, expected, found), (&name, &shape, &wrong));
    }
}

#[test]
fn nan_and_infinity_are_refused_with_their_place() {
    let cases = [
        ("encoder.layer.1.output.dense.weight", 3 * FFN + 150, f32::NAN, "NaN", vec![3, 150]),
        ("encoder.layer.0.attention.self.key.bias", 23, f32::INFINITY, "infinity", vec![23]),
        ("embeddings.position_embeddings.weight", (CONTEXT - 1) * DIM, f32::NEG_INFINITY, "infinity", vec![CONTEXT - 1, 0]),
    ];
    for (name, at, bad, called, place) in cases {
        let error = broken_tensors(|tensors| tensors.get_mut(name).unwrap().1[at] = bad);
        let ModelError::NotFinite { tensor, index, value, .. } = &error else { panic!("{error}") };
        assert_eq!((tensor.as_str(), index, *value), (name, &place, called));
    }
}

#[test]
fn numbers_past_the_profile_are_refused_with_their_place() {
    let error = broken_tensors(|tensors| tensors.get_mut("encoder.layer.0.intermediate.dense.weight").unwrap().1[5 * DIM + 7] = -63.6);
    assert!(matches!(&error, ModelError::TooLarge { index, limit: "63.5", .. } if *index == [5, 7]), "{error}");
    let error = broken_tensors(|tensors| tensors.get_mut("encoder.layer.1.output.LayerNorm.bias").unwrap().1[2] = 131_072.0);
    assert!(matches!(&error, ModelError::TooLarge { index, limit: "131072", .. } if *index == [2]), "{error}");
    let error = broken_tensors(|tensors| tensors.get_mut("encoder.layer.0.output.LayerNorm.weight").unwrap().1[0] = 100_000.0);
    assert!(matches!(error, ModelError::ValuesUnbounded { layer: 1 }), "{error}");
}

#[test]
fn integer_tensors_are_refused_where_floats_are_needed() {
    let error = broken(|folder| {
        let mut file = fixture::safetensors(&fixture::short_tensors(), Type::F32);
        let at = file.windows(5).position(|five| five == b"\"F32\"").unwrap();
        file[at..at + 5].copy_from_slice(b"\"I32\"");
        fs::write(folder.join("model.safetensors"), file).unwrap();
    });
    assert!(matches!(&error, ModelError::ElementType { found, .. } if found == "I32"), "{error}");
}

#[test]
fn a_truncated_or_corrupt_safetensors_file_is_named_and_never_panics() {
    let whole = fixture::safetensors(&fixture::short_tensors(), Type::F32);
    let with = |content: Vec<u8>| broken(move |folder| fs::write(folder.join("model.safetensors"), content).unwrap());
    for length in [0, 7, 8, 100, whole.len() - 1] {
        let error = with(whole[..length].to_vec());
        assert!(
            matches!(&error, ModelError::SafeTensors { path, bytes, .. } if path.ends_with("model.safetensors") && *bytes == length as u64),
            "{error}"
        );
    }
    let mut long = whole.clone();
    long.push(0);
    assert!(matches!(with(long), ModelError::SafeTensors { .. }));
    let mut huge_header = whole.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(with(huge_header), ModelError::SafeTensors { .. }));
    // Whatever byte of the header is flipped, the import ends with an error or the same package: never with a panic or another one.
    let golden = import(&fixture::short_tensors(), Type::F32).unwrap().root();
    let header_length = usize::try_from(u64::from_le_bytes(*whole.first_chunk().unwrap())).unwrap();
    for at in (0..8 + header_length).step_by(13) {
        let folder = TempDir::new().unwrap();
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fixture::write(folder.path(), &flipped);
        if let Ok(package) = Package::import(folder.path(), &folder.path().join("out"), false) {
            assert_eq!(package.root(), golden, "byte {at}");
        }
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let error = broken(|folder| fs::write(folder.join("tokenizer.json"), "{").unwrap());
    assert!(matches!(&error, ModelError::Tokenizer { path, .. } if path.ends_with("tokenizer.json")), "{error}");
    let error = broken(|folder| {
        let mut tokenizer = fixture::tokenizer();
        tokenizer["model"]["vocab"]["extra"] = WORDS.len().into();
        fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    });
    assert!(error.to_string().contains("id 40"), "{error}");
}

#[test]
fn the_float_reference_refuses_what_the_import_refuses() {
    let folder = TempDir::new().unwrap();
    let mut tensors = fixture::short_tensors();
    tensors.remove("encoder.layer.0.attention.self.key.bias");
    fixture::write(folder.path(), &fixture::safetensors(&tensors, Type::F32));
    assert!(matches!(Reference::open(folder.path()), Err(ModelError::MissingTensor { .. })));
}
