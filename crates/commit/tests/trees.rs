//! Hashes and trees: by hand where the format is small enough, by properties where it is not.

use alloy_primitives::{B256, keccak256};
use proptest::{
    collection::vec,
    prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest},
};
use quern_commit::{
    CommitError,
    sum_tree::{SumNode, SumTree},
    tensor::TensorTree,
    tree::{self, Tree},
    vector::{ElementType, Elements, lane_order},
};

fn hash() -> impl Strategy<Value = B256> {
    any::<[u8; 32]>().prop_map(B256::from)
}

fn node() -> impl Strategy<Value = SumNode> {
    (hash(), any::<u32>()).prop_map(|(hash, count)| SumNode { hash, count: u64::from(count) })
}

#[test]
fn vector_hash_is_the_hash_of_chunk_hashes_spelled_out() {
    let chunk = keccak256([&[0x01, 2][..], &(-2i32).to_be_bytes(), &7i32.to_be_bytes()].concat());
    let expected = keccak256([&[0x02, 2][..], &2u32.to_be_bytes(), chunk.as_slice()].concat());
    assert_eq!(Elements::I32(&[-2, 7]).hash(), expected);
    assert_eq!(Elements::U32(&[]).hash(), keccak256([2, 1, 0, 0, 0, 0]));
    let ids = vec![3u32; 257];
    assert_eq!(
        Elements::U32(&ids).chunk_hashes(),
        [Elements::U32(&ids[..256]).chunk_hashes(), Elements::U32(&ids[..1]).chunk_hashes()].concat()
    );
}

#[test]
fn hashes_of_equal_numbers_of_other_types_or_lengths_differ() {
    let zeros = [0i16; 64];
    let wide = [0i32; 64];
    let all = [
        Elements::I16(&zeros).hash(),
        Elements::I16Lanes(&zeros).hash(),
        Elements::I16Lanes(&zeros[..63]).hash(),
        Elements::I16(&zeros[..32]).hash(),
        Elements::I32(&wide).hash(),
        Elements::U32(&[0; 64]).hash(),
        Elements::I16(&[]).hash(),
        Elements::I16Lanes(&[]).hash(),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[at + 1..].contains(one), "{at}");
    }
}

#[test]
fn lane_order_of_one_block_is_the_order_of_the_protocol() {
    let block: Vec<i16> = (0..32).collect();
    let order: Vec<u8> = lane_order(&block).as_chunks::<2>().0.iter().map(|pair| pair[1]).collect();
    let expected = [28, 29, 24, 25, 20, 21, 16, 17, 12, 13, 8, 9, 4, 5, 0, 1, 30, 31, 26, 27, 22, 23, 18, 19, 14, 15, 10, 11, 6, 7, 2, 3];
    assert_eq!(order, expected);
    assert_eq!(lane_order(&block[..3])[28..32], [0, 0, 0, 1]);
    assert_eq!(lane_order(&block[..3])[60..64], [0, 2, 0, 0]);
}

#[test]
fn tree_of_three_leaves_is_spelled_out() {
    let [a, b, c] = [1, 2, 3].map(B256::repeat_byte);
    let above = |left: B256, right: B256| keccak256([&[0x21][..], left.as_slice(), right.as_slice()].concat());
    let expected = above(above(a, b), above(c, keccak256([0x22])));
    assert_eq!(Tree::new(vec![a, b, c]).expect("leaves").top(), expected);
    assert_eq!(Tree::new(vec![a]).expect("a leaf").top(), a);
    assert_eq!(Tree::new(vec![]), Err(CommitError::NoLeaves));
}

#[test]
fn sum_node_commits_to_both_counts() {
    let (left, right) = (SumNode { hash: B256::repeat_byte(1), count: 5 }, SumNode { hash: B256::repeat_byte(2), count: 6 });
    let preimage = [&[0x13][..], &[1; 32], &5u64.to_be_bytes(), &[2; 32], &6u64.to_be_bytes()].concat();
    assert_eq!(SumNode::above(left, right), Ok(SumNode { hash: keccak256(preimage), count: 11 }));
    let full = SumNode { count: u64::MAX, ..left };
    assert_eq!(SumNode::above(full, right), Err(CommitError::CountOverflow));
    assert_eq!(SumTree::new(vec![full, right]), Err(CommitError::CountOverflow));
    assert_eq!(SumTree::new(vec![]), Err(CommitError::NoLeaves));
}

#[test]
fn tensor_without_rows_has_the_zero_top() {
    let tree = TensorTree::new(ElementType::I32, 384, vec![]).expect("small");
    let preimage = [&[0x04, 2][..], &0u32.to_be_bytes(), &384u32.to_be_bytes(), &[0; 32]].concat();
    assert_eq!(tree.hash(), keccak256(preimage));
    assert!(tree.open(0).is_err() && tree.children(0, 0).is_empty() && tree.children(1, 0).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tree_openings_stand_for_their_leaf_alone(leaves in vec(hash(), 1..40), other in hash()) {
        let tree = Tree::new(leaves.clone()).expect("leaves");
        for (index, &leaf) in leaves.iter().enumerate() {
            let opening = tree.open(index).expect("a leaf");
            prop_assert_eq!(opening.top(leaf, leaves.len()), Ok(tree.top()));
            prop_assert!(opening.top(other, leaves.len()) != Ok(tree.top()));
            for height in 0..opening.siblings.len() {
                let mut bent = opening.clone();
                bent.siblings[height] = other;
                prop_assert!(bent.top(leaf, leaves.len()) != Ok(tree.top()));
            }
        }
        prop_assert!(tree.open(leaves.len()).is_err());
    }

    /// An inner node cannot be opened as a leaf, nor a leaf as an inner node: the length of the way is part of the statement.
    #[test]
    fn tree_openings_of_another_length_are_refused(leaves in vec(hash(), 2..40)) {
        let tree = Tree::new(leaves.clone()).expect("leaves");
        let mut opening = tree.open(0).expect("a leaf");
        let first = opening.siblings.remove(0);
        let inner = tree::node_hash(&leaves[0], &first);
        let refused = matches!(opening.top(inner, leaves.len()), Err(CommitError::PathLength { .. }));
        prop_assert!(refused);
        // The same way does stand in a tree of half the leaves, which is why the number of leaves comes from the job.
        prop_assert_eq!(opening.top(inner, leaves.len().next_power_of_two() / 2), Ok(tree.top()));
        prop_assert!(tree.open(0).expect("a leaf").top(leaves[0], 0).is_err());
    }

    #[test]
    fn sum_tree_openings_stand_for_hash_and_count(leaves in vec(node(), 1..40), more in 1..1000u64) {
        let tree = SumTree::new(leaves.clone()).expect("leaves");
        prop_assert_eq!(tree.root().count, leaves.iter().map(|leaf| leaf.count).sum::<u64>());
        for (index, &leaf) in leaves.iter().enumerate() {
            let opening = tree.open(index).expect("a leaf");
            prop_assert_eq!(opening.root(leaf, leaves.len()), Ok(tree.root()));
            // A greater count changes the root even where the hash is the true one.
            let inflated = SumNode { count: leaf.count + more, ..leaf };
            prop_assert!(opening.root(inflated, leaves.len()) != Ok(tree.root()));
            for height in 0..opening.siblings.len() {
                let mut bent = opening.clone();
                bent.siblings[height].count += more;
                prop_assert!(bent.root(leaf, leaves.len()) != Ok(tree.root()));
            }
            let mut moved = opening.clone();
            moved.index ^= 1;
            prop_assert!(leaves.len() == 1 || moved.index >= leaves.len() || moved.root(leaf, leaves.len()) != Ok(tree.root()));
        }
        prop_assert!(tree.open(leaves.len()).is_err());
    }

    #[test]
    fn tensor_openings_stand_for_their_row_alone(rows in vec(hash(), 1..1100), other in hash(), pick in any::<proptest::sample::Index>()) {
        let tree = TensorTree::new(ElementType::I32, 3, rows.clone()).expect("small");
        let count = u32::try_from(rows.len()).expect("small");
        let row = pick.index(rows.len());
        let opening = tree.open(row).expect("a row");
        let hash = |opening: &quern_commit::tensor::TensorOpening, row_hash| opening.tensor_hash(ElementType::I32, count, 3, row_hash);
        prop_assert_eq!(hash(&opening, rows[row]), Ok(tree.hash()));
        prop_assert!(hash(&opening, other) != Ok(tree.hash()));
        prop_assert!(opening.tensor_hash(ElementType::I32, count + 1, 3, rows[row]) != Ok(tree.hash()));
        for level in 0..opening.levels.len() {
            let mut longer = opening.clone();
            longer.levels[level].push(other);
            prop_assert_eq!(hash(&longer, rows[row]), Err(CommitError::TensorPath { level }));
            let mut shorter = opening.clone();
            shorter.levels[level].pop();
            prop_assert!(hash(&shorter, rows[row]).is_err());
        }
        let mut cut = opening.clone();
        if cut.levels.pop().is_some() {
            prop_assert!(hash(&cut, rows[row]).is_err());
        }
    }
}
