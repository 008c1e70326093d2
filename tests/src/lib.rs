//! Whole-system tests; they are in `tests/`, one file per story.
