//! A package on disk: whole or not at all, and nothing in it can change unnoticed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use fixture::{CONTEXT, Type, WORDS};
use quern_exact::{encoder::Output, layout::TensorRef, reference};
use quern_model::{ModelError, Package, Reference};
use quern_types::{B256, FinishReason, PackageRoot, keccak256};
use tempfile::TempDir;

struct Imported {
    folder: TempDir,
    path: PathBuf,
}

impl Imported {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fixture::write(folder.path(), &fixture::safetensors(&fixture::long_tensors(), Type::F32));
        let path = folder.path().join("tiny.quern");
        Package::import(folder.path(), &path, false).unwrap();
        Self { folder, path }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn flip(&self, name: &str, at: usize, bits: u8) {
        let mut content = fs::read(self.file(name)).unwrap();
        content[at] ^= bits;
        fs::write(self.file(name), content).unwrap();
    }

    fn open_and_verify(&self) -> Result<PackageRoot, ModelError> {
        Package::open(&self.path)?.verify()
    }
}

#[test]
fn an_opened_package_is_the_imported_one() {
    let imported = Imported::new();
    let package = Package::open(&imported.path).unwrap();
    assert_eq!(package.verify().unwrap(), package.root());
    let again = Package::open_verified(&imported.path, package.root()).unwrap();
    assert_eq!(again.weights().unwrap(), package.weights().unwrap());
    let error = Package::open_verified(&imported.path, PackageRoot(B256::repeat_byte(1))).unwrap_err();
    assert!(matches!(error, ModelError::OtherPackage { .. }), "{error}");
}

/// docs/PROTOCOL.md, sections 1 and 2, written a second time and plainly.
#[test]
fn the_root_is_what_the_protocol_page_says() {
    fn tree(mut level: Vec<B256>) -> B256 {
        level.resize(level.len().next_power_of_two(), keccak256([0x22]));
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| keccak256([&[0x21][..], &pair[0][..], &pair[1][..]].concat())).collect();
        }
        level[0]
    }
    fn vector(elements: &[i32]) -> B256 {
        let chunks = elements.chunks(256).flat_map(|chunk| {
            let bytes = chunk.iter().flat_map(|x| x.to_be_bytes());
            keccak256([0x01, 2].into_iter().chain(bytes).collect::<Vec<_>>()).0
        });
        let length = u32::try_from(elements.len()).unwrap().to_be_bytes();
        keccak256([0x02, 2].into_iter().chain(length).chain(chunks).collect::<Vec<_>>())
    }
    fn sizes(a: usize, b: usize) -> Vec<u8> {
        [a, b].iter().flat_map(|n| u32::try_from(*n).unwrap().to_be_bytes()).collect()
    }
    fn root(tensor: TensorRef<'_>) -> B256 {
        match tensor {
            TensorRef::Vector(elements) => vector(elements.as_slice()),
            TensorRef::Table(table) => {
                let mut level: Vec<B256> = table.iter_rows().map(vector).collect();
                while level.len() > 1 {
                    level = level
                        .chunks(32)
                        .map(|run| keccak256([&[0x03][..], &run.iter().flat_map(|h| h.0).collect::<Vec<_>>()].concat()))
                        .collect();
                }
                keccak256([&[0x04, 2][..], &sizes(table.rows(), table.width()), &level[0][..]].concat())
            }
            TensorRef::Matrix(matrix) => {
                let row = |row: quern_exact::format::Row<'_>| {
                    let head = [0x20, row.shift].into_iter().chain(row.bias.to_be_bytes());
                    let mantissas = row.mantissas.iter().flat_map(|m| m.to_be_bytes());
                    keccak256(head.chain(mantissas).chain(row.weights.iter().map(|w| w.cast_unsigned())).collect::<Vec<_>>())
                };
                keccak256([&[0x23][..], &sizes(matrix.rows(), matrix.cols()), &tree(matrix.iter_rows().map(row).collect())[..]].concat())
            }
        }
    }
    let imported = Imported::new();
    let package = Package::open(&imported.path).unwrap();
    let tensors: Vec<B256> = package.weights().unwrap().tensors().map(|(_, tensor)| root(tensor)).collect();
    let count = u32::try_from(tensors.len()).unwrap().to_be_bytes();
    let weights = keccak256([&[0x24][..], &count, &tree(tensors)[..]].concat());
    let tokenizer = keccak256(fs::read(imported.file("tokenizer.json")).unwrap());
    let header = fs::read(imported.file("header.bin")).unwrap();
    let expected = keccak256([&[0x30][..], &header, &weights[..], &tokenizer[..]].concat());
    assert_eq!(package.root(), PackageRoot(expected));
}

#[test]
fn a_flipped_byte_anywhere_in_header_or_tokenizer_keeps_the_package_shut() {
    for (name, step) in [("header.bin", 1), ("tokenizer.json", 37)] {
        let imported = Imported::new();
        let length = usize::try_from(fs::metadata(imported.file(name)).unwrap().len()).unwrap();
        for at in (0..length).step_by(step) {
            imported.flip(name, at, 0x01);
            let error = Package::open(&imported.path).expect_err(name);
            let named = matches!(error, ModelError::Malformed { .. } | ModelError::Hash { .. } | ModelError::Tokenizer { .. });
            assert!(named, "{name} byte {at}: {error}");
            imported.flip(name, at, 0x01);
        }
        imported.open_and_verify().unwrap();
    }
}

#[test]
fn a_flipped_byte_anywhere_in_the_weights_is_found() {
    let imported = Imported::new();
    let length = usize::try_from(fs::metadata(imported.file("weights.bin")).unwrap().len()).unwrap();
    for at in (0..length).step_by(31) {
        imported.flip("weights.bin", at, 0x40);
        let error = imported.open_and_verify().expect_err("a flipped byte");
        let message = error.to_string();
        match error {
            ModelError::Hash { part, .. } => assert!(part.starts_with("tensor "), "byte {at}: {message}"),
            ModelError::Malformed { .. } => {}
            _ => panic!("byte {at}: {message}"),
        }
        imported.flip("weights.bin", at, 0x40);
    }
    imported.open_and_verify().unwrap();
}

#[test]
fn malformed_rows_are_named() {
    let imported = Imported::new();
    let weights = fs::read(imported.file("weights.bin")).unwrap();
    // The first tensor is the words: 40 rows of 24 int8, then 40 mantissas, then 40 shifts, each at a multiple of 64. Its directory entry is the first.
    let offset = usize::try_from(u64::from_le_bytes(weights[64 + 16..64 + 24].try_into().unwrap())).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = weights.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(imported.file("weights.bin"), changed).unwrap();
        Package::open(&imported.path).unwrap_err().to_string()
    };
    let error = with(offset + 5 * 24 + 3, &[0x80]);
    assert!(error.contains("tensor words") && error.contains("row 5, column 3 is -128"), "{error}");
    let error = with(offset + 960 + 2 * 9, &[0, 0]);
    assert!(error.contains("row 9, group 0 has mantissa 0"), "{error}");
    let error = with(offset + 960 + 128 + 11, &[63]);
    assert!(error.contains("row 11 has shift 63"), "{error}");
    let error = with(offset + 960 + 128 + 40, &[1]);
    assert!(error.contains("padding of tensor words"), "{error}");
    let error = with(8, &[2]);
    assert!(error.contains("version 2"), "{error}");
    let error = with(0, b"PK");
    assert!(error.contains("does not begin"), "{error}");
    let error = with(64 + 4, &[41]);
    assert!(error.contains("byte 68, in the directory"), "{error}");
}

#[test]
fn truncated_lengthened_and_missing_files_are_named() {
    for name in ["header.bin", "weights.bin", "tokenizer.json", "conversion.json"] {
        let imported = Imported::new();
        let whole = fs::read(imported.file(name)).unwrap();
        // The record ends with a line feed, which JSON can do without.
        for content in [&whole[..whole.len() - 2], &whole[..whole.len() / 2], &[], &[&whole[..], b"x"].concat()] {
            fs::write(imported.file(name), content).unwrap();
            let error = Package::open(&imported.path).expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        fs::remove_file(imported.file(name)).unwrap();
        let error = Package::open(&imported.path).expect_err(name);
        assert!(matches!(&error, ModelError::MissingFile { path, .. } if path.ends_with(name)), "{error}");
    }
}

#[test]
fn another_profile_or_version_is_refused() {
    let imported = Imported::new();
    imported.flip("header.bin", 3, 0x03);
    let error = Package::open(&imported.path).unwrap_err().to_string();
    assert!(error.contains("profile is 2"), "{error}");
    imported.flip("header.bin", 3, 0x03);

    let record = fs::read_to_string(imported.file("conversion.json")).unwrap();
    fs::write(imported.file("conversion.json"), record.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = Package::open(&imported.path).unwrap_err().to_string();
    assert!(error.contains("format 2"), "{error}");
    // A record that claims roots it does not have.
    let root = Package::open(&Imported::new().path).unwrap().root().to_string();
    fs::write(imported.file("conversion.json"), record.replace(&root, &format!("0x{}", "11".repeat(32)))).unwrap();
    assert!(matches!(Package::open(&imported.path).unwrap_err(), ModelError::Hash { .. }));
}

#[test]
fn a_package_is_replaced_only_on_request_and_nothing_else_ever_is() {
    let imported = Imported::new();
    let import = |out: &Path, replace| Package::import(imported.folder.path(), out, replace).map(drop);
    assert!(matches!(import(&imported.path, false), Err(ModelError::Exists { .. })));
    imported.flip("weights.bin", 4000, 1);
    import(&imported.path, true).unwrap();
    imported.open_and_verify().unwrap();

    let precious = imported.folder.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(import(&precious, true), Err(ModelError::NotReplaced { .. })));
    assert_eq!(fs::read_to_string(precious.join("thesis.txt")).unwrap(), "years of work");
    // A failed import leaves the old package alone.
    fs::write(imported.folder.path().join("model.safetensors"), b"broken").unwrap();
    assert!(import(&imported.path, true).is_err());
    imported.open_and_verify().unwrap();
}

#[test]
fn text_is_never_cut_and_never_padded() {
    let imported = Imported::new();
    let package = Package::open(&imported.path).unwrap();
    // tokenizer.json asks for truncation to 4 and padding to 9.
    let ids = package.item(1, "The old mill grinds grain and turns water").unwrap();
    assert_eq!(ids, [2, 4, 22, 5, 20, 17, 9, 28, 8, 7, 3]);
    assert_eq!(package.item(1, "").unwrap(), [2, 3]);
    assert_eq!(package.tokenizer().count("mill").unwrap(), 3);
    assert_eq!(package.tokenizer().decode(&ids).unwrap(), "the old mill grinds grain and turns water");
    assert_eq!(package.tokenizer().decode(&[]).unwrap(), "");
    assert_eq!(package.tokenizer().decode(&[2, 3, 0, 4_000_000]).unwrap(), "");
    assert_eq!(package.item(1, "zebra").unwrap(), [2, 1, 3]);

    let fits = ["mill"; CONTEXT - 2].join(" ");
    assert_eq!(package.item(1, &fits).unwrap().len(), CONTEXT);
    let error = package.item(17, &format!("{fits} mill")).unwrap_err();
    assert!(matches!(error, ModelError::TooLong { line: 17, tokens: 21, context: CONTEXT }), "{error}");
}

/// Items of every length the model reads, and the three that have no vector.
fn items() -> Vec<Vec<u32>> {
    let mut generator = fixture::Generator(3);
    let mut items: Vec<Vec<u32>> =
        (1..=CONTEXT).map(|length| (0..length).map(|_| u32::try_from(generator.next() % WORDS.len() as u64).unwrap()).collect()).collect();
    items.extend([vec![], vec![4; CONTEXT + 1], vec![4, WORDS.len() as u32]]);
    items
}

#[test]
fn threads_batches_and_order_change_no_bit() {
    let imported = Imported::new();
    let encoder = Package::open(&imported.path).unwrap().encoder().unwrap();
    let items = items();
    let plain: Vec<Output> = items.iter().map(|ids| reference::forward(&encoder, ids)).collect();
    for threads in [1, 2, 3, 7] {
        let threads = NonZeroUsize::new(threads).unwrap();
        assert_eq!(encoder.embed_many(&items, threads), plain, "{threads} threads");
        for size in [1, 2, 5, 100] {
            let batches: Vec<Output> = items.chunks(size).flat_map(|batch| encoder.embed_many(batch, threads)).collect();
            assert_eq!(batches, plain, "{threads} threads, batches of {size}");
        }
        let reversed: Vec<_> = items.iter().rev().cloned().collect();
        let mut outputs = encoder.embed_many(&reversed, threads);
        outputs.reverse();
        assert_eq!(outputs, plain, "{threads} threads, reversed");
    }
    let reasons: Vec<FinishReason> = plain[CONTEXT..].iter().map(|output| output.reason).collect();
    assert_eq!(reasons, [FinishReason::EmptyItem, FinishReason::ItemTooLong, FinishReason::UnknownId]);
    assert!(plain[CONTEXT..].iter().all(|output| output.vector == vec![0; fixture::DIM] && output.norm_rows.rows() == 0));
}

/// Full-range random weights are harder on the profile than trained ones; the bound is for catching a wrong op, which is off by far more.
#[test]
fn the_exact_model_follows_the_float_model() {
    let imported = Imported::new();
    let encoder = Package::open(&imported.path).unwrap().encoder().unwrap();
    let reference = Reference::open(imported.folder.path()).unwrap();
    for ids in items().iter().take(CONTEXT) {
        let exact = encoder.forward(ids).vector;
        let float = reference.embed(ids).unwrap();
        let dot: f64 = exact.iter().zip(&float).map(|(a, b)| f64::from(*a) / 32_768.0 * f64::from(*b)).sum();
        assert!((dot - 1.0).abs() < 2e-3, "{} ids: {dot}", ids.len());
    }
    for ids in items().iter().skip(CONTEXT) {
        assert!(matches!(reference.embed(ids), Err(ModelError::Reference { .. })));
    }
}
