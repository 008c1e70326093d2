//! The leaf of the work root, piece by piece and from the whole table.

use quern_commit::{tensor::TensorTree, work::WorkLeaf};
use quern_exact::format::TableI32;

#[test]
fn a_leaf_of_rows_that_come_in_pieces_is_the_leaf_of_their_table() {
    let data: Vec<i32> = (0..70 * 3).map(|at| at * 7919 - 100_000).collect();
    for rows in [0, 1, 2, 32, 33, 70] {
        let data = &data[..rows * 3];
        let table = TableI32::new(rows, 3, data.to_vec()).expect("sizes fit");
        for piece in [1, 5, 70] {
            let mut leaf = WorkLeaf::new(3);
            data.chunks(3 * piece).for_each(|rows| leaf.push(rows));
            assert_eq!(leaf.rows(), rows);
            assert_eq!(leaf.finish().expect("few rows"), TensorTree::of_table(&table).hash());
        }
    }
}
