//! tests/vectors/commit.json: computed here, compared with the file, and held against the Solidity twin by its own tests.
//! `QUERN_BLESS=1 cargo test -p quern-commit --test golden` writes the file; its schema is in tests/vectors/README.md.

use std::path::PathBuf;

use alloy_primitives::{Address, B256, hex};
use quern_commit::{
    blob::{InputSet, OutputRecord, OutputSet},
    model,
    sum_tree::{SumNode, SumTree},
    tensor::TensorTree,
    tree::Tree,
    vector::{ElementType, Elements, lane_order},
    work,
};
use quern_exact::{
    encoder::Output,
    format::{Q8Matrix, TableI32},
    layout::TensorRef,
    sample::{self, Generator},
};
use quern_types::{FinishReason, JobId, PackageRoot};
use serde_json::{Value, json};

fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::String(hex::encode_prefixed(bytes))
}

fn hashes<'a>(hashes: impl IntoIterator<Item = &'a B256>) -> Value {
    hashes.into_iter().map(bytes).collect()
}

fn natural<const WIDTH: usize>(elements: impl IntoIterator<Item = [u8; WIDTH]>) -> Value {
    bytes(elements.into_iter().flatten().collect::<Vec<u8>>())
}

fn u32s(generator: &mut Generator, len: usize) -> Vec<u32> {
    (0..len).map(|_| u32::try_from(generator.within(0, i64::from(u32::MAX))).expect("a u32")).collect()
}

fn i32s(generator: &mut Generator, len: usize) -> Vec<i32> {
    (0..len).map(|_| i32::try_from(generator.within(i64::from(i32::MIN), i64::from(i32::MAX))).expect("an i32")).collect()
}

fn i16s(generator: &mut Generator, len: usize) -> Vec<i16> {
    (0..len).map(|_| i16::try_from(generator.within(-32_767, 32_767)).expect("an i16")).collect()
}

fn hash_of(generator: &mut Generator) -> B256 {
    B256::from_slice(&(0..4).flat_map(|_| generator.next_u64().to_be_bytes()).collect::<Vec<u8>>())
}

fn vectors(generator: &mut Generator) -> Value {
    let mut cases = Vec::new();
    for length in [0, 1, 31, 32, 33, 255, 256, 257, 512] {
        let (ids, wide, narrow) = (u32s(generator, length), i32s(generator, length), i16s(generator, length));
        let big_endian = [
            natural(ids.iter().map(|x| x.to_be_bytes())),
            natural(wide.iter().map(|x| x.to_be_bytes())),
            natural(narrow.iter().map(|x| x.to_be_bytes())),
            natural(narrow.iter().map(|x| x.to_be_bytes())),
        ];
        let all = [Elements::U32(&ids), Elements::I32(&wide), Elements::I16(&narrow), Elements::I16Lanes(&narrow)];
        for (elements, natural) in all.iter().zip(big_endian) {
            cases.push(json!({
                "type": elements.element_type().code(), "length": length, "elements": natural,
                "chunk_hashes": hashes(&elements.chunk_hashes()), "hash": bytes(elements.hash()),
            }));
        }
    }
    cases.into()
}

fn lanes(generator: &mut Generator) -> Value {
    let case = |length| {
        let elements = i16s(generator, length);
        json!({ "length": length, "elements": natural(elements.iter().map(|x| x.to_be_bytes())), "lanes": bytes(lane_order(&elements)) })
    };
    [1, 31, 32, 33, 100, 256].map(case).into_iter().collect()
}

fn tensors(generator: &mut Generator) -> Value {
    let case = |rows: usize| {
        let table = TableI32::new(rows, 2, i32s(generator, rows * 2)).expect("sizes fit");
        let tree = TensorTree::of_table(&table);
        let open = |row: usize| {
            let opening = tree.open(row).expect("a row");
            let row_hash = Elements::I32(table.row(row).expect("a row")).hash();
            json!({ "row": row, "row_hash": bytes(row_hash), "levels": opening.levels.iter().map(hashes).collect::<Value>() })
        };
        let mut opened = vec![0, rows / 2, rows.saturating_sub(1)];
        opened.retain(|&row| row < rows);
        opened.dedup();
        json!({
            "type": ElementType::I32.code(), "rows": rows, "width": 2, "elements": natural(table.data().iter().map(|x| x.to_be_bytes())),
            "hash": bytes(tree.hash()), "openings": opened.into_iter().map(open).collect::<Value>(),
        })
    };
    [0, 1, 2, 32, 33, 1025].map(case).into_iter().collect()
}

fn sum_node(node: SumNode) -> Value {
    json!({ "hash": bytes(node.hash), "count": node.count })
}

fn sum_tree(leaves: &[SumNode]) -> Value {
    let tree = SumTree::new(leaves.to_vec()).expect("leaves");
    let open = |index: usize| {
        let opening = tree.open(index).expect("a leaf");
        json!({ "index": index, "siblings": opening.siblings.iter().copied().map(sum_node).collect::<Value>() })
    };
    json!({
        "leaves": leaves.iter().copied().map(sum_node).collect::<Value>(), "root": sum_node(tree.root()),
        "openings": (0..leaves.len()).map(open).collect::<Value>(),
    })
}

fn tree(leaves: &[B256]) -> Value {
    let tree = Tree::new(leaves.to_vec()).expect("leaves");
    let open = |index: usize| json!({ "index": index, "siblings": hashes(&tree.open(index).expect("a leaf").siblings) });
    json!({ "leaves": hashes(leaves), "root": bytes(tree.top()), "openings": (0..leaves.len()).map(open).collect::<Value>() })
}

const SIZES: [usize; 5] = [1, 2, 3, 5, 8];

fn sum_trees(generator: &mut Generator) -> Value {
    let mut case = |size: usize| {
        let leaf = |item: usize| {
            let ids = u32s(generator, item * 3);
            let length = u32::try_from(ids.len()).expect("short");
            SumNode::input(u32::try_from(item).expect("small"), length, &Elements::U32(&ids).hash())
        };
        sum_tree(&(0..size).map(leaf).collect::<Vec<_>>())
    };
    SIZES.map(&mut case).into_iter().collect()
}

fn trees(generator: &mut Generator) -> Value {
    SIZES.map(|size| tree(&(0..size).map(|_| hash_of(generator)).collect::<Vec<_>>())).into_iter().collect()
}

fn leaves(generator: &mut Generator) -> Value {
    let (ids, vector) = (u32s(generator, 5), i16s(generator, 384));
    let (ids_hash, vector_hash) = (Elements::U32(&ids).hash(), Elements::I16(&vector).hash());
    let generate = SumNode::generate(7, 3, FinishReason::Stop, 5, &ids_hash);
    let embed = SumNode::embed(7, FinishReason::Complete, 384, &vector_hash);
    json!({
        "input": { "item": 7, "length": 5, "ids_hash": bytes(ids_hash), "leaf": sum_node(SumNode::input(7, 5, &ids_hash)) },
        "generate": { "item": 7, "sample": 3, "reason": 2, "length": 5, "ids_hash": bytes(ids_hash), "leaf": sum_node(generate) },
        "embed": { "item": 7, "reason": 1, "width": 384, "vector_hash": bytes(vector_hash), "leaf": sum_node(embed) },
        "empty_sum_leaf": bytes(SumNode::empty().hash),
        "empty_tree_leaf": bytes(quern_commit::tree::empty_leaf()),
    })
}

fn matrix(matrix: &Q8Matrix) -> Value {
    let row = |row: quern_exact::format::Row<'_>| {
        json!({
            "shift": row.shift, "bias": row.bias, "mantissas": row.mantissas,
            "weights": bytes(row.weights.iter().map(|w| w.to_be_bytes()[0]).collect::<Vec<u8>>()), "hash": bytes(model::row_hash(row)),
        })
    };
    json!({
        "rows": matrix.rows(), "columns": matrix.cols(), "row_list": matrix.iter_rows().map(row).collect::<Value>(),
        "top": bytes(model::matrix_tree(matrix).top()), "root": bytes(model::tensor_root(TensorRef::Matrix(matrix))),
    })
}

fn models(generator: &mut Generator) -> Value {
    let shapes = [(1, 1, false), (3, 130, true), (5, 256, true)];
    let matrices = shapes.map(|(rows, cols, bias)| matrix(&sample::matrix(generator, rows, cols, bias).expect("legal")));
    let header = sample::small_header();
    let weights = sample::weights(&header, 11).expect("a valid header");
    let roots: Vec<B256> = weights.tensors().map(|(_, tensor)| model::tensor_root(tensor)).collect();
    let names: Value = weights.tensors().map(|(name, _)| Value::String(name.to_string())).collect();
    let weights_root = model::encoder_weights_root(&weights);
    let tokenizer_hash = model::tokenizer_hash(b"{}");
    let PackageRoot(package_root) = model::package_root(&header, &weights_root, &tokenizer_hash);
    let publisher = Address::repeat_byte(0xa1);
    let model_id = model::model_id(PackageRoot(package_root), publisher, 250);
    json!({
        "matrices": matrices,
        "tensor_names": names,
        "tensor_roots": hashes(&roots),
        "weights_root": bytes(weights_root),
        "header": bytes(header.to_bytes()),
        "macs_per_token": header.macs_per_token().expect("valid"),
        "tokenizer_json": "{}",
        "tokenizer_hash": bytes(tokenizer_hash),
        "package_root": bytes(package_root),
        "publisher": bytes(publisher),
        "royalty_bps": 250,
        "model_id": bytes(model_id.0),
    })
}

/// A whole job: items with every kind of result, by the sample encoder of seed 11.
fn job() -> Value {
    let encoder = sample::encoder(&sample::small_header(), 11).expect("a valid header");
    let items = vec![vec![1, 2, 3], vec![], vec![99; 24], vec![0; 25], vec![5, 100]];
    let outputs: Vec<Output> = items.iter().map(|item| encoder.forward(item)).collect();
    let input = InputSet::new(items.clone()).expect("items");
    let records = outputs.iter().map(|output| OutputRecord { reason: output.reason, elements: output.vector.clone() });
    let output = OutputSet::Embed(records.collect());
    let work_leaves: Vec<B256> = outputs.iter().map(work::work_leaf).collect();
    let work_root = work::work_root(work_leaves.clone()).expect("outputs");
    let (provider, job) = (Address::repeat_byte(0xb2), JobId(B256::repeat_byte(0xc3)));
    json!({
        "items": items,
        "input_blob": bytes(input.to_blob()),
        "input_root": sum_node(input.tree().expect("items").root()),
        "reasons": outputs.iter().map(|output| Value::from(output.reason.code())).collect::<Value>(),
        "vectors": outputs.iter().map(|output| natural(output.vector.iter().map(|x| x.to_be_bytes()))).collect::<Value>(),
        "output_blob": bytes(output.to_blob().expect("small")),
        "output_root": sum_node(output.tree().expect("outputs").root()),
        "work_leaves": hashes(&work_leaves),
        "work_top": bytes(Tree::new(work_leaves).expect("outputs").top()),
        "work_root": bytes(work_root),
        "provider": bytes(provider),
        "job_id": bytes(job.0),
        "work_digest": bytes(work::work_digest(&work_root, provider, job)),
    })
}

fn all() -> Value {
    let mut generator = Generator::new(1);
    json!({
        "vectors": vectors(&mut generator), "lanes": lanes(&mut generator), "tensors": tensors(&mut generator),
        "leaves": leaves(&mut generator), "sum_trees": sum_trees(&mut generator), "trees": trees(&mut generator),
        "model": models(&mut generator), "job": job(),
    })
}

#[test]
fn golden_vectors_equal_their_file() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/commit.json");
    if std::env::var_os("QUERN_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&all()).expect("JSON") + "\n";
        std::fs::write(&path, text).expect("the source tree is writable");
    }
    let stored = std::fs::read_to_string(&path).expect("tests/vectors/commit.json exists");
    let stored: Value = serde_json::from_str(&stored).expect("JSON");
    let computed = all();
    // Part by part, so that a failure names the part and not 130 kB of hexadecimal.
    for (part, value) in computed.as_object().expect("an object") {
        assert!(stored.get(part) == Some(value), "{part} in tests/vectors/commit.json differs from what this code computes");
    }
    assert_eq!(stored.as_object().map(serde_json::Map::len), computed.as_object().map(serde_json::Map::len), "a part more or less");
}
