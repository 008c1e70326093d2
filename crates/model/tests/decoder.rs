//! Decoders: from a folder to a package, and from a package to ids.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::{
    fs,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::Arc,
};

use fixture::{Tensors, Type, decoder as folder_of};
use quern_exact::{
    decoder::{OutputKey, Rule},
    header::{self, NO_ID},
    kernels::{Isa, Pool},
    layout::TensorRef,
    reference,
};
use quern_model::{Corpus, DecoderReference, ImportOptions, Message, ModelError, Package, PackedOrigin, Session};
use serde_json::{Value, json};
use tempfile::TempDir;

const IDS: [u32; 24] = [2, 5, 17, 8, 33, 4, 4, 21, 39, 11, 6, 30, 7, 13, 25, 2, 19, 28, 36, 9, 14, 5, 31, 22];

struct Imported {
    folder: TempDir,
    package: Package,
}

impl Imported {
    fn new(model_type: &str, changes: &[(&str, Value)], change: impl FnOnce(&mut Tensors)) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder_of::config(model_type, changes);
        let mut tensors = folder_of::tensors(&config);
        change(&mut tensors);
        folder_of::write_folder(folder.path(), &config, &tensors, Type::F32);
        let package = Package::import(folder.path(), &folder.path().join("m.quern"), false).unwrap();
        Self { folder, package }
    }

    fn packed(&self) -> PathBuf {
        self.folder.path().join("m.quern.packed")
    }
}

fn pool(threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(Isa::detect(), NonZeroUsize::new(threads).unwrap()))
}

fn greedy(max_output: u32) -> Rule {
    Rule::greedy(NonZeroU32::new(max_output).unwrap(), [NO_ID; 8])
}

const KEY: OutputKey = OutputKey { item: 0, sample: 0 };

#[test]
fn the_packed_file_computes_what_the_package_says_to_the_bit() {
    for (name, model_type, changes) in folder_of::families() {
        let imported = Imported::new(model_type, &changes, |_| ());
        let packed = imported.package.packed().unwrap();
        assert_eq!(packed.origin, PackedOrigin::Mapped, "{name}");
        let expected = reference::generate(&imported.package.model().unwrap(), &IDS[..9], &greedy(20), KEY);
        for threads in [1, 3] {
            let decoder = imported.package.decoder(pool(threads)).unwrap();
            assert_eq!(decoder.generate(&IDS[..9], &greedy(20), KEY).unwrap(), expected, "{name}");
        }
        assert_eq!(imported.package.verify().unwrap(), imported.package.root(), "{name}");
    }
}

#[test]
fn a_session_has_the_output_of_a_job_whatever_was_said_before() {
    let imported = Imported::new("llama", &[], |_| ());
    let decoder = imported.package.decoder(pool(2)).unwrap();
    let mut session = Session::new(decoder.clone(), 64).unwrap();
    for prompt in [&IDS[..9], &IDS[..12], &IDS[..12], &IDS[..3], &IDS[4..20]] {
        for rule in [greedy(7), Rule { temperature: 1 << 16, min_p: 3000, seed: [9; 32], ..greedy(7) }] {
            let found = session.generate(prompt, &rule, &mut |_| true).unwrap();
            let expected = decoder.generate(prompt, &rule, KEY).unwrap();
            assert_eq!((found.ids, found.reason), (expected.ids, Some(expected.reason)));
        }
    }
    let ended = session.generate(&IDS[..9], &greedy(7), &mut |_| false).unwrap();
    assert_eq!((ended.ids.len(), ended.reason), (1, None));
    assert!(matches!(session.generate(&[], &greedy(1), &mut |_| true), Err(ModelError::EmptyPrompt)));
    assert!(matches!(session.generate(&[5; 65], &greedy(1), &mut |_| true), Err(ModelError::PromptTooLong { tokens: 65, room: 64 })));
    let unknown = session.generate(&[5, 40], &greedy(1), &mut |_| true).unwrap_err();
    assert!(unknown.to_string().contains("id 40"), "{unknown}");
}

#[test]
fn the_header_is_what_the_configuration_says() {
    let imported = Imported::new("qwen3", &[("head_dim", json!(16)), ("max_position_embeddings", json!(40_000))], |_| ());
    let header = imported.package.header();
    assert_eq!([header.vocabulary, header.dim, header.layers, header.heads, header.kv_heads], [40, 48, 2, 4, 2]);
    assert_eq!([header.head_dim, header.rotary_dims, header.ffn, header.context, header.window], [16, 16, 160, 32_768, 0]);
    assert_eq!((header.epsilon, header.score_scale, header.prefix_id), (128_849, 6_051_102, 2));
    assert_eq!((header.flags, header.stop_ids[..3].to_vec()), (0b100_1001, vec![3, 0, NO_ID]));
    assert!(imported.package.record().notes.iter().any(|note| note.contains("40000")), "{:?}", imported.package.record().notes);
    assert_eq!(imported.package.header().family, header::FAMILY_DECODER);

    let window = |window: Value, context: u32| {
        let imported = Imported::new("mistral", &[("sliding_window", window), ("max_position_embeddings", json!(context))], |_| ());
        imported.package.header().window
    };
    assert_eq!([window(json!(5), 64), window(json!(null), 64), window(json!(4096), 64)], [5, 0, 0]);
}

#[test]
fn importing_twice_gives_the_same_bytes_in_every_file() {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "qwen2", &[]);
    let [a, b] = ["a.quern", "b.quern"].map(|name| folder.path().join(name));
    Package::import(folder.path(), &a, false).unwrap();
    Package::import(folder.path(), &b, false).unwrap();
    for name in ["header.bin", "weights.bin", "tokenizer.json", "chat.json", "conversion.json"] {
        assert_eq!(fs::read(a.join(name)).unwrap(), fs::read(b.join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read(folder.path().join("a.quern.packed")).unwrap(), fs::read(folder.path().join("b.quern.packed")).unwrap());
}

#[test]
fn a_shorter_context_is_another_model_and_a_longer_one_is_refused() {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "llama", &[]);
    let import = |name: &str, context| {
        let options = ImportOptions { context: Some(context), ..ImportOptions::default() };
        Package::import_with(folder.path(), &folder.path().join(name), &options, &mut |_| true)
    };
    assert_eq!(import("short", 12).unwrap().header().context, 12);
    assert_ne!(import("short2", 13).unwrap().root(), import("full", 64).unwrap().root());
    assert!(import("long", 65).unwrap_err().to_string().contains("65"));
}

#[test]
fn an_interrupted_import_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "llama", &[]);
    let before = names(folder.path());
    let bytes = fs::metadata(folder.path().join("model.safetensors")).unwrap().len();
    // The first report is of what was hashed, the others of what was converted.
    for most in [1, 10] {
        let mut reports = Vec::new();
        let interrupted = Package::import_with(folder.path(), &folder.path().join("out"), &ImportOptions::default(), &mut |progress| {
            reports.push(progress);
            reports.len() < most
        });
        assert!(matches!(interrupted, Err(ModelError::Interrupted)));
        assert_eq!((reports.len(), reports[0].done), (most, bytes));
        assert!(reports.iter().all(|progress| progress.done < progress.total));
        assert_eq!(names(folder.path()), before);
    }
    let mut last = None;
    Package::import_with(folder.path(), &folder.path().join("out"), &ImportOptions::default(), &mut |progress| {
        last = Some(progress);
        true
    })
    .unwrap();
    assert!(last.is_some_and(|progress| progress.done == progress.total));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_packed_file_that_is_missing_or_stale_is_made_again() {
    let imported = Imported::new("llama", &[], |_| ());
    let whole = fs::read(imported.packed()).unwrap();
    let other = Imported::new("llama", &[("rope_theta", json!(20_000))], |_| ());
    let origin = || Package::open(imported.package.path()).unwrap().packed().unwrap().origin;
    let stale = [
        ("missing", None),
        ("another package", Some(fs::read(other.packed()).unwrap())),
        ("another release", Some([&whole[..8], &[9], &whole[9..]].concat())),
        ("cut short", Some(whole[..whole.len() - 64].to_vec())),
        ("longer", Some([&whole[..], &[0; 64]].concat())),
    ];
    for (name, content) in stale {
        // A new file each time: the one before may be mapped.
        fs::remove_file(imported.packed()).unwrap();
        if let Some(content) = content {
            fs::write(imported.packed(), content).unwrap();
        }
        assert!(matches!(origin(), PackedOrigin::Rebuilt { .. }), "{name}");
        assert_eq!(fs::read(imported.packed()).unwrap(), whole, "{name}");
        assert_eq!(origin(), PackedOrigin::Mapped, "{name}");
    }
}

#[test]
fn somebody_elses_file_in_the_packed_files_place_is_left_alone() {
    let imported = Imported::new("llama", &[], |_| ());
    let expected = imported.package.decoder(pool(1)).unwrap().generate(&IDS[..5], &greedy(5), KEY).unwrap();
    fs::remove_file(imported.packed()).unwrap();
    for content in ["", "a diary", &"a long diary ".repeat(1000)] {
        fs::write(imported.packed(), content).unwrap();
        let packed = imported.package.packed().unwrap();
        assert!(matches!(&packed.origin, PackedOrigin::InMemory { because } if !because.is_empty()), "{:?}", packed.origin);
        let decoder = quern_exact::decoder::Decoder::from_packed(packed.weights, pool(1));
        assert_eq!(decoder.generate(&IDS[..5], &greedy(5), KEY).unwrap(), expected);
        assert_eq!(fs::read_to_string(imported.packed()).unwrap(), content);
    }
}

#[test]
fn a_flipped_byte_in_weights_or_packed_file_is_found() {
    let imported = Imported::new("qwen2", &[], |_| ());
    let weights = imported.package.path().join("weights.bin");
    let whole = fs::read(&weights).unwrap();
    for at in (64..whole.len()).step_by(9973) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&weights, &flipped).unwrap();
        let found = Package::open(imported.package.path()).and_then(|package| package.verify());
        assert!(matches!(found, Err(ModelError::Hash { .. } | ModelError::Malformed { .. })), "byte {at}: {found:?}");
    }
    fs::write(&weights, &whole).unwrap();
    let packed = fs::read(imported.packed()).unwrap();
    for at in (64..packed.len()).step_by(9973) {
        let mut flipped = packed.clone();
        flipped[at] ^= 1;
        fs::remove_file(imported.packed()).unwrap();
        fs::write(imported.packed(), &flipped).unwrap();
        let found = Package::open(imported.package.path()).and_then(|package| package.verify());
        assert!(matches!(found, Err(ModelError::Packed { .. })), "byte {at}: {found:?}");
    }
}

/// Weights that are not those of the root must not become a packed file that states the root.
#[test]
fn corrupt_weights_are_never_packed() {
    let imported = Imported::new("llama", &[], |_| ());
    fs::remove_file(imported.packed()).unwrap();
    let weights = imported.package.path().join("weights.bin");
    let mut flipped = fs::read(&weights).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&weights, &flipped).unwrap();
    let package = Package::open(imported.package.path()).unwrap();
    assert!(matches!(package.packed(), Err(ModelError::Hash { .. } | ModelError::Malformed { .. })));
    assert!(!imported.packed().exists());
}

#[test]
fn a_package_of_the_other_kind_is_refused_by_what_it_is() {
    let decoder = Imported::new("llama", &[], |_| ());
    assert!(decoder.package.encoder().unwrap_err().to_string().contains("is a decoder"));
    let folder = TempDir::new().unwrap();
    fixture::write(folder.path(), &fixture::safetensors(&fixture::short_tensors(), Type::F32));
    let encoder = Package::import(folder.path(), &folder.path().join("out"), false).unwrap();
    assert!(encoder.packed().unwrap_err().to_string().contains("is an encoder"));
    assert!(encoder.model().is_err());
}

#[test]
fn a_conversation_is_rendered_by_the_models_template() {
    let imported = Imported::new("llama", &[], |_| ());
    let package = Package::open(imported.package.path()).unwrap();
    let template = package.chat_template().unwrap().unwrap();
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let prompt = template.render(&[message("system", " water "), message("user", "grain")]).unwrap();
    assert_eq!(prompt, "[CLS]water grain the mill");
    assert_eq!(package.tokenizer().encode_prompt(&prompt).unwrap(), [2, 7, 9, 4, 5]);
    let refused = template.render(&[message("tool", "x")]).unwrap_err();
    assert!(refused.to_string().contains("no such role"), "{refused}");

    let chat = package.path().join("chat.json");
    let changed = fs::read_to_string(&chat).unwrap().replace("the mill", "a mill");
    fs::write(&chat, changed).unwrap();
    assert!(matches!(Package::open(package.path()), Err(ModelError::Hash { .. })));
}

#[test]
fn forms_of_the_same_checkpoint_have_the_same_root() {
    let root = |config: &Value, tensors: &Tensors, kind| {
        let folder = TempDir::new().unwrap();
        folder_of::write_folder(folder.path(), config, tensors, kind);
        Package::import(folder.path(), &folder.path().join("out"), false).unwrap().root()
    };
    let config = folder_of::config("llama", &[]);
    let mut tensors = folder_of::tensors(&config);
    // To numbers that every type holds.
    for (_, values) in tensors.values_mut() {
        for value in values {
            *value = (*value * 64.0).round().clamp(-127.0, 127.0) / 64.0;
        }
    }
    let plain = root(&config, &tensors, Type::F32);
    assert_eq!(root(&config, &tensors, Type::Bf16), plain);
    assert_eq!(root(&config, &tensors, Type::F16), plain);

    // As transformers 5 writes it.
    let mut newer = config.clone();
    newer.as_object_mut().unwrap().remove("rope_theta");
    newer["rope_parameters"] = json!({"rope_theta": 1e4, "rope_type": "default"});
    newer["layer_types"] = json!(["full_attention", "full_attention"]);
    assert_eq!(root(&newer, &tensors, Type::F32), plain);

    let bare: Tensors =
        tensors.iter().map(|(name, tensor)| (name.strip_prefix("model.").unwrap_or(name).to_owned(), tensor.clone())).collect();
    assert_eq!(root(&config, &bare, Type::F32), plain);
}

#[test]
fn the_divergence_over_a_corpus_holds_for_the_model_and_for_no_other() {
    let imported = Imported::new("llama", &[], |_| ());
    let corpus = TempDir::new().unwrap();
    for (name, text) in [
        ("lines", "the mill turns\nold water is in the river\n"),
        ("words", "grain\nflour\n"),
        ("long", "the old wheel turns . day and night"),
    ] {
        fs::create_dir(corpus.path().join(name)).unwrap();
        fs::write(corpus.path().join(name).join("a.txt"), text).unwrap();
    }
    let corpus = Corpus::read(corpus.path()).unwrap();
    let reports = |reference: &Path| {
        quern_model::divergence(&imported.package, &DecoderReference::open(reference).unwrap(), &corpus, &pool(2)).unwrap()
    };
    let found = reports(imported.folder.path());
    assert_eq!(found.iter().map(|report| report.positions).collect::<Vec<_>>(), [4 + 7, 2 + 2, 9]);
    assert!(found.iter().all(|report| report.mean < 5e-3 && report.mean > 0.0 && report.worst >= report.mean), "{found:?}");
    // The same weights turned at another speed.
    let other = Imported::new("llama", &[("rope_theta", json!(100))], |_| ());
    let found = reports(other.folder.path());
    assert!(found.iter().any(|report| !report.holds()), "{found:?}");
}

/// The form that is hashed, read back from the file, is what the plain conversion makes.
#[test]
fn a_package_holds_the_tensors_of_its_record_in_order() {
    let imported = Imported::new("qwen3", &[("head_dim", json!(16))], |_| ());
    let model = imported.package.model().unwrap();
    let names: Vec<String> = model.weights().tensors().map(|(name, _)| name.to_string()).collect();
    let recorded: Vec<&str> = imported.package.record().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, recorded);
    let (_, first) = model.weights().tensors().next().unwrap();
    assert!(matches!(first, TensorRef::Matrix(words) if words.rows() == 40));
    assert!(matches!(model.weights().tensors().nth(1), Some((_, TensorRef::Table(cos))) if cos.row(0) == Some(&[1 << 30; 8][..])));
}
