//! `quern`: see `quern --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    quern_cli::run()
}
