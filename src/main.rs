//! The program `skyorg`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    skyorg::app::cli::main()
}
