//! The schema's own rules (migrations/README.md), read from the migrations.

use std::{fs, path::Path};

/// Every migration, as (path, text).
fn migrations() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/sqlite");
    let mut found = Vec::new();
    for kind in ["journal", "index"] {
        for file in fs::read_dir(root.join(kind)).expect("the folder is there") {
            let path = file.expect("reads").path();
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("reads")));
        }
    }
    found
}

#[test]
fn every_table_and_column_has_a_comment() {
    let mut columns = 0;
    for (path, text) in migrations() {
        let mut before = "";
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with("CREATE TABLE") {
                assert!(before.starts_with("-- "), "{path}: no comment above {line}");
                inside = true;
            } else if line.starts_with(')') {
                inside = false;
            } else if inside {
                let word = line.trim_start().split([' ', '(']).next().unwrap_or_default();
                let is_column =
                    line.starts_with("    ") && !line.starts_with("     ") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                if is_column {
                    columns += 1;
                    // A column may go on over lines that are indented further; its comment stands at the end of the last.
                    let statement = text[text.find(line).expect("is a line of it")..].lines();
                    let mut last = line;
                    for next in statement.skip(1).take_while(|next| next.starts_with("     ")) {
                        last = next;
                    }
                    assert!(last.contains(" -- "), "{path}: no comment on {line}");
                }
            }
            before = line;
        }
    }
    assert!(columns > 150, "only {columns} columns were read: the test no longer understands the files");
}

#[test]
fn no_migration_uses_what_postgresql_lacks() {
    for (path, text) in migrations() {
        for word in ["AUTOINCREMENT", "INSERT OR", "strftime", "datetime(", "rowid ", "IFNULL", "GLOB"] {
            assert!(!text.contains(word), "{path} uses {word}");
        }
    }
}
